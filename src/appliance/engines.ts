import { isDeepStrictEqual } from 'node:util';
import type { SlotSetting, SlotTerms } from '../custodian/slot-keeper.ts';
import type { Engine } from '../custody/engine.ts';
import { type SlotId, slotId } from '../custody/ids.ts';
import { KeyslotError, toKeyslotError } from '../foundation/errors.ts';
import type { Log } from '../foundation/log.ts';
import { createEngine, custodyOf } from './catalogue.ts';
import { type Config, canaryOf, type SlotConfig } from './config.ts';
import { pinReader } from './secrets.ts';

/** The engines of the configured slots: one each, made from its settings, and ended with it. */
export class Engines implements AsyncDisposable {
  readonly #log: Log;
  readonly #byId = new Map<string, { readonly config: SlotConfig; readonly engine: Engine }>();

  constructor(log: Log) {
    this.#log = log;
  }

  /** The settings that the slots were made from, by id. */
  get slots(): ReadonlyMap<string, SlotConfig> {
    return new Map([...this.#byId].map(([id, { config }]) => [id, config]));
  }

  /** At the first start a module that cannot be used is refused by the name of its setting; later it waits as failed. */
  async make(config: Config, slot: SlotConfig, firstStart: boolean): Promise<SlotSetting> {
    const engine = await this.#engine(config, slot, firstStart);
    this.#byId.set(slot.id, { config: slot, engine });
    return this.#setting(config, slot, engine, firstStart);
  }

  /** Another configuration on the side. */
  draft(): EnginesDraft {
    return new EnginesDraft(this, new Engines(this.#log));
  }

  /** What can change while a slot is open. */
  terms(config: Config, slot: SlotConfig): SlotTerms {
    const readPin = pinReader(config, slot, this.#log);
    return {
      access: slot.access,
      canary: canaryOf(slot),
      required: slot.required,
      ...(slot.pin === 'none' ? { hasPin: false } : {}),
      ...(readPin ? { readPin } : {}),
    };
  }

  /** These are from now on; answers those that they take the place of. */
  adopt(others: Engines, adjusted: readonly SlotConfig[]): ReadonlyMap<string, Engine> {
    const replaced = new Map<string, Engine>();
    const stay = new Set(adjusted.map(({ id }) => id));
    for (const [id, { engine }] of this.#byId) {
      if (stay.has(id)) continue;
      replaced.set(id, engine);
      this.#byId.delete(id);
    }
    for (const config of adjusted) {
      const held = this.#byId.get(config.id);
      if (held) this.#byId.set(config.id, { ...held, config });
    }
    for (const [id, held] of others.#byId) this.#byId.set(id, held);
    others.#byId.clear();
    return replaced;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const { engine } of [...this.#byId.values()].toReversed()) await engine[Symbol.asyncDispose]();
  }

  async #engine(config: Config, slot: SlotConfig, firstStart: boolean): Promise<Engine> {
    try {
      return await createEngine(config, slot, this.#log);
    } catch (thrown) {
      const { code, message } = toKeyslotError(thrown);
      const error = new KeyslotError(code, `slots.${slot.id}.settings.module: ${message}`, { cause: thrown });
      if (firstStart) throw error;
      return unusableEngine(slot, error);
    }
  }

  async #setting(
    config: Config,
    slot: SlotConfig,
    engine: Engine,
    firstStart: boolean,
  ): Promise<SlotSetting> {
    const [first] = await engine.slots();
    if (!first) throw new TypeError(`The engine of slot ${slot.id} has no slot.`);
    const fallback = {
      id: first.id,
      engine: slot.engine,
      custody: custodyOf(slot),
      summary: 'not reachable when the custodian started',
      details: {},
    };
    return {
      slot: first,
      ...this.terms(config, slot),
      ...(firstStart && !hasStandIn(config, slot) ? {} : { fallback }),
    };
  }
}

/** Engines that nobody uses yet: kept together, or disposed of. */
export class EnginesDraft implements AsyncDisposable {
  readonly #engines: Engines;
  readonly #made: Engines;
  #replaced: ReadonlyMap<string, Engine> = new Map();
  #isMoved = false;

  constructor(engines: Engines, made: Engines) {
    this.#engines = engines;
    this.#made = made;
  }

  /** As at a first start: a wrong setting is a failure. */
  make(config: Config, slot: SlotConfig): Promise<SlotSetting> {
    return this.#made.make(config, slot, true);
  }

  /** Somebody else disposes of it. */
  move(): EnginesDraft {
    this.#isMoved = true;
    return new EnginesDraft(this.#engines, this.#made);
  }

  /** They are in force, beside those of the slots that are named. */
  keep(adjusted: readonly SlotConfig[]): void {
    this.#replaced = this.#engines.adopt(this.#made, adjusted);
  }

  /** Ends the engine that a slot had before. */
  async retire(slot: SlotId): Promise<void> {
    await this.#replaced.get(slot)?.[Symbol.asyncDispose]();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (!this.#isMoved) await this.#made[Symbol.asyncDispose]();
  }
}

/** Whether a slot of these settings can go on with the engine that it has. */
export function sameDevice(before: SlotConfig | undefined, after: SlotConfig): boolean {
  const device = (slot: SlotConfig) => ({
    engine: slot.engine,
    settings: slot.settings,
    moduleSecret: 'moduleSecret' in slot ? slot.moduleSecret : undefined,
  });
  return before !== undefined && isDeepStrictEqual(device(before), device(after));
}

function unusableEngine(slot: SlotConfig, error: KeyslotError): Engine {
  const refuse = () => Promise.reject(error);
  return {
    name: slot.engine,
    slots: async () => [{ id: slotId(slot.id), describe: refuse, open: refuse }],
    [Symbol.asyncDispose]: async () => undefined,
  };
}

/** Whether the appliance can begin without the slot's device: it opens by itself later, and its group signs meanwhile. */
const hasStandIn = ({ groups }: Config, { id, pin }: SlotConfig): boolean =>
  pin !== 'none' &&
  !('attended' in pin) &&
  groups.some(({ members }) => members.some(({ slot }) => slot === id));
