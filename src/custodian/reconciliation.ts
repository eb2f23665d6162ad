import { canaryKey } from '../custody/canary-key.ts';
import type { KeyInfo, Session } from '../custody/engine.ts';
import type { KeyId, SlotId } from '../custody/ids.ts';
import { toKeyslotError } from '../foundation/errors.ts';
import type { Log } from '../foundation/log.ts';
import type { KeyRecord, KeyRegistry } from '../store/key-registry.ts';
import type { MigrationsJournal } from '../store/migrations-journal.ts';
import type { SlotView } from '../wire/views.ts';

/** What the registry says of a slot, held against what the token has. Differences are reported, never repaired. */
export class Reconciliation {
  readonly #slot: SlotId;
  readonly #world: ReconciliationWorld;
  #copies: ReadonlyMap<KeyId, Copy> | undefined;

  constructor(slot: SlotId, world: ReconciliationWorld) {
    this.#slot = slot;
    this.#world = world;
  }

  /** What the last look found here of the keys of the group's other slots; nothing before the first one. */
  get copies(): ReadonlyMap<KeyId, Copy> | undefined {
    return this.#copies;
  }

  /**
   * At an opening, before anything is made there: a key that was being made when the appliance stopped is resolved,
   * because that is our own unfinished sentence; every other difference is reported and left alone.
   */
  async atOpening(session: Session): Promise<Findings> {
    const present = await listed(session);
    const findings: Findings[number][] = [];
    for (const record of this.#world.registry.ofSlot(this.#slot)) {
      if (record.state === 'destroyed') continue; // what is left of it in the token is unknown there
      const info = present.get(record.id);
      present.delete(record.id);
      if (record.state === 'pending') await this.#resolve(session, record, info !== undefined);
      else findings.push(...(await difference(session, record, info)));
    }
    present.delete(canaryKey); // ours, and in no registry
    const copies = this.#world.journal.copiesIn(this.#slot);
    findings.push(...this.#takeCopies(present));
    for (const { id, publicKey } of present.values()) {
      const copied = copies.get(id);
      const kept = copied !== undefined && Buffer.compare(copied, publicKey) === 0;
      findings.push({ key: id, problem: kept ? 'kept-copy' : 'unknown' });
    }
    return this.#told(findings);
  }

  /** In an open slot whose token was away for a while: whether the keys of the registry are all there. */
  async ofRegistered(session: Session): Promise<Findings> {
    const { registry } = this.#world;
    const records = registry.ofSlot(this.#slot); // before the list: what is made meanwhile is not missed
    const present = await listed(session);
    const findings: Findings[number][] = [];
    for (const { id } of records) {
      const record = registry.get(id); // as it is now: what is removed or moved meanwhile is not missed either
      if (!record || record.slot !== this.#slot) continue;
      if (record.state === 'destroyed' || record.state === 'pending') continue;
      findings.push(...(await difference(session, record, present.get(id))));
    }
    findings.push(...this.#takeCopies(present));
    return this.#told(findings);
  }

  /** Takes the keys of the group's other slots out of what was listed. One under their id that is another is told. */
  #takeCopies(present: Map<KeyId, KeyInfo>): Findings {
    const mates = this.#world.mates?.get(this.#slot) ?? [];
    const kept = this.#world.journal.copiesIn(this.#slot);
    const copies = new Map<KeyId, Copy>();
    for (const info of mates.length > 0 ? [...present.values()] : []) {
      const record = this.#world.registry.get(info.id);
      if (!record || !mates.includes(record.slot) || !isUsed(record)) continue;
      const found = samePublicKey(record, info) ? 'copy' : 'mismatch';
      copies.set(info.id, found);
      if (found === 'mismatch' || !kept.has(info.id)) present.delete(info.id);
    }
    this.#copies = copies;
    return [...copies].flatMap(([key, found]) => (found === 'mismatch' ? [{ key, problem: found }] : []));
  }

  #told(findings: Findings): Findings {
    for (const finding of findings) {
      if (finding.problem === 'kept-copy') continue; // wanted, and named by the journal
      this.#world.log.warn({ slot: this.#slot, ...finding }, 'the registry and the token differ');
    }
    return findings;
  }

  /** What a list says of a key is not proven: the record is completed with what its signer was found to be. */
  async #resolve(session: Session, record: KeyRecord, made: boolean): Promise<void> {
    const { log, registry } = this.#world;
    log.warn({ slot: this.#slot, key: record.id, made }, 'a key was being made when Keyslot stopped');
    if (!made) return registry.abandon(record.id);
    try {
      registry.complete((await session.signer(record.id)).key);
    } catch (thrown) {
      const { code } = toKeyslotError(thrown);
      log.error(
        { slot: this.#slot, key: record.id, code, err: thrown },
        'a key that was being made is damaged',
      );
    }
  }
}

export interface ReconciliationWorld {
  readonly registry: KeyRegistry;
  readonly journal: MigrationsJournal;
  /** The other slots of the group of each slot that is in one. */
  readonly mates?: ReadonlyMap<SlotId, readonly SlotId[]> | undefined;
  readonly log: Log;
}

/** Whether what stands under the id of a key of another slot is that key. */
export type Copy = 'copy' | 'mismatch';

const isUsed = ({ state }: KeyRecord): boolean => state === 'active' || state === 'disabled';

export type Findings = SlotView['findings'];

/** Whether none of them keeps a registered key from being used. */
export const isHarmless = ({ problem }: Findings[number]): boolean =>
  problem === 'unknown' || problem === 'kept-copy';

/** Copies that were kept on purpose stand behind everything that nobody meant to happen. */
export function shown(findings: Findings): Findings {
  const rank = ({ problem }: Findings[number]) => (problem === 'kept-copy' ? 1 : 0);
  return findings.toSorted((a, b) => rank(a) - rank(b)).slice(0, findings_max);
}

const findings_max = 100;

export const samePublicKey = (record: KeyRecord, info: KeyInfo): boolean =>
  record.publicKey !== undefined && Buffer.compare(record.publicKey, info.publicKey) === 0;

async function listed(session: Session): Promise<Map<KeyId, KeyInfo>> {
  const present = new Map<KeyId, KeyInfo>();
  for await (const info of session.keys()) present.set(info.id, info);
  return present;
}

async function difference(session: Session, record: KeyRecord, info: KeyInfo | undefined): Promise<Findings> {
  if (!info) return [{ key: record.id, problem: await absence(session, record.id) }];
  return samePublicKey(record, info) ? [] : [{ key: record.id, problem: 'mismatch' }];
}

/** Why a registered key was not listed: it is not there, or what is there cannot be used. */
async function absence(session: Session, key: KeyId): Promise<'missing' | 'damaged'> {
  try {
    await session.signer(key);
    return 'damaged'; // it can be looked up and yet was not listed: nothing to rely on
  } catch (thrown) {
    return toKeyslotError(thrown).code === 'KEY_UNKNOWN' ? 'missing' : 'damaged';
  }
}
