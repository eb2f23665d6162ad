import type { CheckpointSigner } from '../audit/audit-log.ts';
import { generates } from '../custody/engine.ts';
import type { KeyId } from '../custody/ids.ts';
import { isKeyslotError } from '../foundation/errors.ts';
import type { Log } from '../foundation/log.ts';
import type { KeyRegistry } from '../store/key-registry.ts';
import type { KeyLifecycle } from './keys.ts';
import type { SlotKeeper } from './slot-keeper.ts';

/**
 * The key that signs checkpoints, in a slot of its own. It is made when its slot opens for the first time, and
 * asked for at every checkpoint until the slot is open.
 */
export class AuditKey {
  readonly #world: AuditKeyWorld;
  #publicKey: Uint8Array | undefined;

  constructor(world: AuditKeyWorld) {
    this.#world = world;
  }

  get publicKey(): Uint8Array | undefined {
    return this.#publicKey;
  }

  /** Nothing while the slot is not open: checkpoints wait for it, and the log's state says so. */
  readonly signer = async (): Promise<CheckpointSigner | undefined> => {
    const { keeper, id, log } = this.#world;
    if (keeper.state !== 'open' && keeper.state !== 'degraded') return undefined;
    try {
      const { publicKey } = await this.#bound();
      this.#publicKey = publicKey;
      return { publicKey, sign: async note => (await this.#bound()).sign(note) };
    } catch (thrown) {
      if (!isKeyslotError(thrown)) throw thrown;
      log.error({ slot: keeper.id, key: id, err: thrown }, 'the audit key cannot sign');
      return undefined;
    }
  };

  async #bound() {
    const { keeper, registry, keys, id } = this.#world;
    if (!registry.get(id)) {
      // Of two ways to come by it, taking the slot's own comes first: a state folder may have been lost.
      await keys.adopt(id, keeper, undefined).catch(async thrown => {
        if (!isKeyslotError(thrown) || thrown.code !== 'KEY_UNKNOWN' || !generates(keeper.session()))
          throw thrown;
        return keys.generate(id, keeper);
      });
    }
    const record = registry.get(id);
    if (record?.state !== 'active') throw new TypeError(`The audit key ${id} is not active.`);
    const { signer } = await keeper.signer(record);
    return {
      publicKey: signer.key.publicKey,
      sign: (note: Uint8Array) => keeper.watched(keeper.lend(record, key => key.signer.sign(note))),
    };
  }
}

export interface AuditKeyWorld {
  readonly keeper: SlotKeeper;
  readonly id: KeyId;
  readonly registry: KeyRegistry;
  readonly keys: KeyLifecycle;
  readonly log: Log;
}
