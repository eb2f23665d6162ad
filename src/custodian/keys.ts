import { generates, imports, type KeyInfo } from '../custody/engine.ts';
import type { KeyId } from '../custody/ids.ts';
import { encodeBase58 } from '../foundation/base58.ts';
import { encodeBase64 } from '../foundation/base64.ts';
import type { Clock } from '../foundation/clock.ts';
import { KeyslotError } from '../foundation/errors.ts';
import type { Secret } from '../foundation/secret.ts';
import type { KeyRecord, KeyRegistry } from '../store/key-registry.ts';
import type { KeyView } from '../wire/views.ts';
import type { SlotKeeper } from './slot-keeper.ts';

/**
 * Making keys. The registry is told first, then the custody makes the key, then the registry completes the
 * record: a key that was acknowledged is in both, and a crash in between is resolved when the slot opens.
 */
export class KeyLifecycle {
  readonly #registry: KeyRegistry;
  readonly #clock: Clock;

  constructor(registry: KeyRegistry, clock: Clock) {
    this.#registry = registry;
    this.#clock = clock;
  }

  /** POWER_MISSING, KEY_EXISTS, and what the custody answers. */
  async generate(id: KeyId, keeper: SlotKeeper): Promise<KeyView> {
    const session = keeper.session();
    if (!generates(session)) throw powerMissing(keeper, 'generate');
    return this.#make(id, keeper, 'generated', () => session.generate(id));
  }

  /** POWER_MISSING, KEY_EXISTS, KEY_MATERIAL_INVALID, and what the custody answers. */
  async import(id: KeyId, keeper: SlotKeeper, seed: Secret): Promise<KeyView> {
    const session = keeper.session();
    if (!imports(session)) throw powerMissing(keeper, 'import');
    return this.#make(id, keeper, 'imported', () => session.import(id, seed));
  }

  async #make(
    id: KeyId,
    keeper: SlotKeeper,
    origin: KeyRecord['origin'],
    make: () => Promise<KeyInfo>,
  ): Promise<KeyView> {
    this.#registry.begin(id, keeper.id, origin, this.#clock.utc());
    let info: KeyInfo;
    try {
      info = await make();
    } catch (error) {
      this.#registry.abandon(id);
      throw error;
    }
    return keyView(this.#registry.complete(info));
  }
}

/** A record as callers see it. A pending one has no public key yet and is nobody's business: KEY_UNKNOWN. */
export function keyView(record: KeyRecord): KeyView {
  const { publicKey, custody, state } = record;
  if (publicKey === undefined || custody === undefined || state === 'pending') throw keyUnknown(record.id);
  return {
    id: record.id,
    slot: record.slot,
    publicKey: encodeBase58(publicKey),
    publicKeyBase64: encodeBase64(publicKey),
    custody,
    exportable: record.exportable ?? false,
    state,
    origin: record.origin,
    createdAt: record.createdAt,
    ...(record.attributes ? { attributes: { ...record.attributes } } : {}),
  };
}

export const keyUnknown = (id: KeyId) => new KeyslotError('KEY_UNKNOWN', `There is no key ${id}.`);

const powerMissing = (keeper: SlotKeeper, power: string) =>
  new KeyslotError('POWER_MISSING', `Slot ${keeper.id} cannot ${power} keys.`);
