import { randomBytes } from 'node:crypto';
import { canaryKey } from '../custody/canary-key.ts';
import { adopts, generates, imports, type KeyInfo, type Session } from '../custody/engine.ts';
import { type KeyId, keyId, type SlotId } from '../custody/ids.ts';
import { encodeBase58 } from '../foundation/base58.ts';
import { encodeBase64 } from '../foundation/base64.ts';
import type { Clock } from '../foundation/clock.ts';
import { createVerifier, publicKeyFromSeed, seed_bytes } from '../foundation/ed25519.ts';
import { type ErrorCode, isKeyslotError, KeyslotError, toKeyslotError } from '../foundation/errors.ts';
import type { Secret } from '../foundation/secret.ts';
import type { KeyRecord, KeyRegistry } from '../store/key-registry.ts';
import type { KeyView } from '../wire/views.ts';
import type { SlotGroup } from './slot-group.ts';
import type { SlotKeeper } from './slot-keeper.ts';

/**
 * Making keys. The registry is told first, then the custody makes the key, then the registry completes the
 * record: a key that was acknowledged is in both, and a crash in between is resolved when the slot opens.
 */
export class KeyLifecycle {
  readonly #registry: KeyRegistry;
  readonly #clock: Clock;
  readonly #making = new Set<KeyId>();

  constructor(registry: KeyRegistry, clock: Clock) {
    this.#registry = registry;
    this.#clock = clock;
  }

  /** POWER_MISSING, KEY_ID_INVALID for the reserved one, KEY_EXISTS, and what the custody answers. */
  async generate(id: KeyId, keeper: SlotKeeper, tags?: readonly string[]): Promise<KeyView> {
    const session = keeper.session();
    if (!generates(session)) throw powerMissing(keeper, 'generate');
    return this.#make({
      id,
      slot: keeper.id,
      origin: 'generated',
      tags,
      session,
      make: () => session.generate(id),
    });
  }

  /**
   * In a group, the seed of a key of another of its slots becomes a copy here, and the registry stays as it is.
   * POWER_MISSING, KEY_ID_INVALID, KEY_EXISTS, KEY_MATERIAL_INVALID, and what the custody answers.
   */
  async import(
    id: KeyId,
    keeper: SlotKeeper,
    seed: Secret,
    tags?: readonly string[],
    group?: SlotGroup,
  ): Promise<KeyView> {
    const session = keeper.session();
    if (!imports(session)) throw powerMissing(keeper, 'import');
    if (seed.length !== seed_bytes) {
      throw new KeyslotError('KEY_MATERIAL_INVALID', `A seed has ${seed_bytes} bytes, not ${seed.length}.`);
    }
    const expected = seed.use(publicKeyFromSeed);
    const make = () => session.import(id, seed);
    const registered = this.#registry.get(id);
    if (group && registered && tags === undefined && isOriginal(registered, keeper, group, expected)) {
      await group.addCopy(registered, keeper, make);
      return keyView(registered);
    }
    return this.#make({ id, slot: keeper.id, origin: 'imported', tags, session, make, expected });
  }

  /**
   * Takes a key into the registry that exists in the custody already: the one that the reference names there, or
   * the slot's own key of this id. It proves itself first. POWER_MISSING, KEY_ID_INVALID, KEY_EXISTS, KEY_UNKNOWN,
   * KEY_UNVERIFIED, and what the custody answers.
   */
  async adopt(
    id: KeyId,
    keeper: SlotKeeper,
    reference: string | undefined,
    tags?: readonly string[],
  ): Promise<KeyView> {
    const session = keeper.session();
    const found = async (): Promise<KeyInfo> => {
      if (reference === undefined) return (await session.signer(id)).key;
      if (!adopts(session)) throw powerMissing(keeper, 'adopt');
      return session.adopt(id, reference);
    };
    const make = async () => proven(session, await found());
    return this.#make({ id, slot: keeper.id, origin: 'imported', tags, session, make });
  }

  async #make(plan: Plan): Promise<KeyView> {
    const { id } = plan;
    if (id === canaryKey) throw new KeyslotError('KEY_ID_INVALID', `The key id ${id} is reserved.`);
    const resumed = this.#begin(plan);
    this.#making.add(id);
    try {
      return keyView(this.#registry.complete(await made(plan, resumed)));
    } catch (error) {
      if (!mayHaveHappened(error)) this.#registry.abandon(id);
      throw error;
    } finally {
      this.#making.delete(id);
    }
  }

  /** Writes down what is about to be made; true when it takes up a record that a failure left unsettled. */
  #begin({ id, slot, origin, tags }: Plan): boolean {
    const left = this.#registry.get(id);
    const same = left?.state === 'pending' && left.slot === slot && left.origin === origin;
    if (same && !this.#making.has(id)) return true;
    this.#registry.begin(id, slot, origin, this.#clock.utc(), tags?.map(tagOf));
    return false;
  }
}

/** Whether it is the same key, in another slot of the group. */
const isOriginal = (record: KeyRecord, keeper: SlotKeeper, group: SlotGroup, expected: Uint8Array): boolean =>
  (record.state === 'active' || record.state === 'disabled') &&
  record.slot !== keeper.id &&
  group.members.some(({ slot }) => slot === record.slot) &&
  record.publicKey !== undefined &&
  Buffer.compare(record.publicKey, expected) === 0;

interface Plan {
  readonly id: KeyId;
  readonly slot: SlotId;
  readonly origin: KeyRecord['origin'];
  readonly tags: readonly string[] | undefined;
  readonly session: Session;
  readonly make: () => Promise<KeyInfo>;
  /** The public key that an import must end up with. */
  readonly expected?: Uint8Array;
}

/** The key, freshly made, or the one that an earlier attempt made without being able to say so. */
async function made({ id, session, make, expected }: Plan, resumed: boolean): Promise<KeyInfo> {
  try {
    return await make();
  } catch (error) {
    if (!resumed || !isKeyslotError(error) || error.code !== 'KEY_EXISTS') throw error;
    const { key } = await session.signer(id);
    if (expected && Buffer.compare(key.publicKey, expected) !== 0) throw error;
    return key;
  }
}

async function proven(session: Session, info: KeyInfo): Promise<KeyInfo> {
  const challenge = randomBytes(32);
  const signature = await (await session.signer(info.id)).sign(challenge);
  if (await createVerifier(info.publicKey).verify(challenge, signature)) return info;
  throw new KeyslotError('KEY_UNVERIFIED', `The key ${info.id} does not sign as its public key.`);
}

/**
 * Whether a key may have been made although the custody failed. Its record then stays pending: making it again
 * finds out, and so does the next opening of the slot.
 */
const mayHaveHappened = (error: unknown): boolean => unsettled.has(toKeyslotError(error).code);

const unsettled: ReadonlySet<ErrorCode> = new Set([
  'TOKEN_UNAVAILABLE',
  'TOKEN_ERROR',
  'TOKEN_CAPACITY',
  'SESSION_CLOSED',
  'STORE_FAILED',
  'KEY_FILE_UNWRITABLE',
  'KMS_THROTTLED',
  'KMS_UNAVAILABLE',
  'INTERNAL',
]);

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
    tags: [...record.tags],
    origin: record.origin,
    createdAt: record.createdAt,
    ...(record.attributes ? { attributes: { ...record.attributes } } : {}),
  };
}

export const keyUnknown = (id: KeyId) => new KeyslotError('KEY_UNKNOWN', `There is no key ${id}.`);

/** KEY_ID_INVALID: a tag is written as an id is. */
export const tagOf = (text: string): string => keyId(text);

const powerMissing = (keeper: SlotKeeper, power: string) =>
  new KeyslotError('POWER_MISSING', `Slot ${keeper.id} cannot ${power} keys.`);
