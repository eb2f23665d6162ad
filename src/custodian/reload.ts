import { setTimeout as delay } from 'node:timers/promises';
import type { SlotId } from '../custody/ids.ts';
import type { Clock } from '../foundation/clock.ts';
import { KeyslotError, toKeyslotError } from '../foundation/errors.ts';
import { limits } from '../foundation/limits.ts';
import type { Log } from '../foundation/log.ts';
import type { OperationName } from '../wire/custodian.ts';
import type { ReloadDiff, Reloaded, ReloadView } from '../wire/reload.ts';
import type { Approvals } from './approvals.ts';
import type { CallerSessions, SessionLimits } from './caller-sessions.ts';
import type { People, PeopleSetting } from './people.ts';
import type { PolicyBook, PolicyOptions } from './policy-book.ts';
import type { Recorder } from './recorder.ts';
import type { GroupSetting } from './slot-group.ts';
import type { SlotGroups } from './slot-groups.ts';
import { isSettingError, type SlotKeeper, type SlotSetting, type SlotTerms } from './slot-keeper.ts';

/**
 * Takes another configuration while requests go on. Whatever can fail is done first, and nothing of it shows; then
 * everything changes in one turn of the event loop, so that no request is judged by half of each. What was taken away
 * ends at once: sessions of people and slots, logins of slots, signers of keys that are not there any more.
 */
export class Reloading {
  readonly #world: ReloadingWorld;
  #running = false;
  #last: ReloadView | undefined;

  constructor(world: ReloadingWorld) {
    this.#world = world;
  }

  get view(): { running: boolean; last?: ReloadView } {
    return { running: this.#running, ...(this.#last ? { last: this.#last } : {}) };
  }

  /**
   * Reads the configuration and takes it. RELOAD_BUSY while another one does; RELOAD_NEEDS_RESTART and
   * RELOAD_REFUSED, and then everything is as it was.
   */
  async run(by: string): Promise<Reloaded> {
    if (this.#running) throw new KeyslotError('RELOAD_BUSY', 'The configuration is being read already.');
    this.#running = true;
    const at = this.#world.clock.utc().toISOString();
    try {
      const result = await this.#taken(by);
      this.#last = { at, by, outcome: 'ok', result };
      this.#world.log.info({ actor: by, ...result.diff }, 'the configuration was read again');
      return result;
    } catch (thrown) {
      const error = refusalOf(toKeyslotError(thrown));
      this.#last = { at, by, outcome: 'refused', code: error.code, detail: error.message };
      this.#world.log.error({ actor: by, err: error }, 'the configuration was not taken');
      throw error;
    } finally {
      this.#running = false;
    }
  }

  async #taken(by: string): Promise<Reloaded> {
    const { source } = this.#world;
    if (!source) throw new KeyslotError('RELOAD_REFUSED', 'This custodian was not started from files.');
    await using next = await source();
    const { diff } = next;
    if (!isSame(diff)) await this.#take(next, by);
    return { changed: !isSame(diff), diff, keysGone: await this.#keysGone() };
  }

  async #take(next: Configuration, by: string): Promise<void> {
    const { people, book, groups, keepers, sessions, approvals, recorder, clock } = this.#world;
    const now = () => clock.utc();
    // What can fail. New slots open on the side: nobody gets to them yet.
    const made = await this.#made(next);
    const fresh = new Map(made.map(({ keeper }) => [keeper.id, keeper]));
    const slots = new Map(
      next.slots.all.flatMap(id => {
        const keeper = fresh.get(id) ?? keepers.get(id);
        return keeper ? [[id, keeper]] : [];
      }),
    );
    const ready = async () => {
      const replacePeople = await people.replacing(next.people);
      replacePeople(); // what it is refused for is known before anything is written
      const regroup = groups.replacing(next.groups, slots);
      try {
        // Before the store: where nothing can be recorded, nothing is changed anywhere.
        await recorder.event({ actor: by, operation: 'reload', detail: detailOf(next.diff) });
        const replacePolicies = await book.replacing({ configured: next.policies, now });
        return { replacePeople, regroup, replacePolicies };
      } catch (error) {
        regroup[Symbol.dispose]();
        throw error;
      }
    };
    const { replacePeople, regroup, replacePolicies } = await ready().catch(async thrown => {
      await lockAll(made);
      throw thrown;
    });

    // From here on nothing is awaited and nothing fails.
    const { gone, changed, rekeyed, leftOut } = replacePeople()();
    replacePolicies();
    const ended = this.#exchange(next, made, slots);
    regroup.take();
    sessions.limit(next.sessions);
    approvals.require(next.approvals);
    this.#world.setExports(next.exports);
    for (const name of [...gone, ...changed]) approvals.forget(name);
    for (const name of [...gone, ...rekeyed]) sessions.closeAllBy(name);
    for (const { id } of ended) sessions.closeAllOf(id);

    for (const err of leftOut) this.#world.log.error({ err }, 'an identity of the API gave way');
    const untold = await next.keep().then(() => undefined, toKeyslotError);
    await this.#settled(next, ended, gone);
    if (untold) throw untold; // it is in force here all the same; the next reload tells the others
  }

  /** Keepers of the slots that are new. One that replaces another slot of its name opens when that one has ended. */
  async #made({ slots }: Configuration): Promise<readonly Made[]> {
    const made: Made[] = [];
    try {
      for (const setting of slots.added) {
        const keeper = await this.#world.keeperOf(setting);
        const replaces = this.#world.keepers.has(keeper.id);
        made.push({ keeper, replaces });
        if (replaces || keeper.attended) continue;
        const failure = await this.#world.open(keeper).then(() => undefined, toKeyslotError);
        if (isSettingError(failure)) throw failure;
      }
      return made;
    } catch (error) {
      await lockAll(made);
      throw error;
    }
  }

  /** Answers the keepers that are no longer asked. */
  #exchange(next: Configuration, made: readonly Made[], slots: ReadonlyMap<SlotId, SlotKeeper>) {
    const { keepers, reopening } = this.#world;
    const ended = [...keepers.values()].filter(keeper => slots.get(keeper.id) !== keeper);
    keepers.clear();
    for (const [id, keeper] of slots) keepers.set(id, keeper);
    for (const { id, terms } of next.slots.adjusted) keepers.get(id)?.adjust(terms);
    for (const keeper of ended) reopening.forget(keeper);
    for (const { keeper } of made) reopening.follow(keeper);
    this.#world.setMates(next.groups);
    return ended;
  }

  /** What ends takes its time: what is signing finishes. Nobody waits for that longer than for a request. */
  async #settled(next: Configuration, ended: readonly SlotKeeper[], gone: readonly string[]): Promise<void> {
    const { people, keepers, log, open } = this.#world;
    const end = async (keeper: SlotKeeper) => {
      await keeper.lock();
      await next.retire(keeper.id);
      const successor = keepers.get(keeper.id);
      if (successor && !successor.attended && successor.state === 'locked') await open(successor);
    };
    const failed = (slot: SlotId) => (thrown: unknown) =>
      log.error(
        { slot, err: toKeyslotError(thrown) },
        'a slot did not end in order, or its successor is not open',
      );
    const ends = Promise.all([
      ...ended.map(keeper => end(keeper).catch(failed(keeper.id))),
      ...gone.map(name =>
        people.tokens
          .revokeAllOf(name)
          .catch(thrown =>
            log.error({ identity: name, err: toKeyslotError(thrown) }, 'tokens are not revoked'),
          ),
      ),
    ]);
    await Promise.race([ends, delay(limits.drain_ms, undefined, { ref: false })]);
  }

  /** A key may have gone where no setting says so. */
  async #keysGone(): Promise<Reloaded['keysGone']> {
    const { keepers, log } = this.#world;
    const found = await Promise.all(
      [...keepers.values()].map(async keeper => {
        const keys = await keeper.recheck().catch(thrown => {
          log.warn(
            { slot: keeper.id, err: toKeyslotError(thrown) },
            'the keys of a slot could not be looked for',
          );
          return [];
        });
        return keys.map(key => ({ slot: keeper.id, key }));
      }),
    );
    return found.flat();
  }
}

/** Another configuration, read and checked as far as that goes without the custodian. */
export interface Configuration extends AsyncDisposable {
  readonly diff: ReloadDiff;
  readonly slots: {
    /** In the order in which they are shown. */
    readonly all: readonly SlotId[];
    /** New ones, also those that take the place of one of their name. */
    readonly added: readonly SlotSetting[];
    /** Those that stay open, on other terms. */
    readonly adjusted: readonly { readonly id: SlotId; readonly terms: SlotTerms }[];
  };
  readonly groups: readonly GroupSetting[];
  readonly people: PeopleSetting;
  readonly policies: PolicyOptions['configured'];
  readonly sessions: SessionLimits;
  readonly approvals: ReadonlyMap<OperationName, number>;
  readonly exports: boolean;
  /** It is in force: what was made for it stays, and everybody else who goes by it is told. Otherwise it is disposed of. */
  keep(): Promise<void>;
  /** The slot of the configuration before has ended. */
  retire(slot: SlotId): Promise<void>;
}

export interface ReloadingWorld {
  /** CONFIG_INVALID and its kin, RELOAD_NEEDS_RESTART. */
  readonly source: (() => Promise<Configuration>) | undefined;
  readonly keepers: Map<SlotId, SlotKeeper>;
  readonly keeperOf: (setting: SlotSetting) => Promise<SlotKeeper>;
  /** Opens a slot that nobody asked for, and writes it down. */
  readonly open: (keeper: SlotKeeper) => Promise<void>;
  readonly reopening: { follow(keeper: SlotKeeper): void; forget(keeper: SlotKeeper): void };
  readonly people: People;
  readonly book: PolicyBook;
  readonly groups: SlotGroups;
  readonly sessions: CallerSessions;
  readonly approvals: Approvals;
  readonly setExports: (enabled: boolean) => void;
  readonly setMates: (groups: readonly GroupSetting[]) => void;
  readonly recorder: Pick<Recorder, 'event'>;
  readonly clock: Clock;
  readonly log: Log;
}

interface Made {
  readonly keeper: SlotKeeper;
  readonly replaces: boolean;
}

const lockAll = (made: readonly Made[]): Promise<unknown> =>
  Promise.all(made.map(({ keeper }) => keeper.lock()));

/** What is wrong in the files is said in one code, whatever it is; a failure below is what it is. */
function refusalOf(error: KeyslotError): KeyslotError {
  if (error.entry.retryable || error.code === 'INTERNAL' || error.code.startsWith('RELOAD_')) return error;
  return new KeyslotError('RELOAD_REFUSED', `${error.code}: ${error.message}`, { cause: error });
}

/** What is about to change, for the audit log: `{ slots: '+new ~other -old' }`. */
function detailOf({ certificates, settings, ...named }: ReloadDiff): Record<string, string> {
  const signed = (sign: string, names: readonly string[]) => names.map(name => `${sign}${name}`);
  const texts = {
    ...Object.fromEntries(
      Object.entries(named).map(([kind, { added, changed, removed }]) => [
        kind,
        [...signed('+', added), ...signed('~', changed), ...signed('-', removed)],
      ]),
    ),
    certificates: signed('~', certificates),
    settings: signed('~', settings),
  };
  return Object.fromEntries(
    Object.entries(texts)
      .filter(([, names]) => names.length > 0)
      .map(([kind, names]) => [kind, names.join(' ').slice(0, 500)]),
  );
}

export const isSame = ({ certificates, settings, ...named }: ReloadDiff): boolean =>
  certificates.length === 0 &&
  settings.length === 0 &&
  Object.values(named).every(
    ({ added, changed, removed }) => added.length + changed.length + removed.length === 0,
  );
