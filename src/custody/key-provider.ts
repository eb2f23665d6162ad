import type { Keypair } from '@solana/web3.js';
import { seed_bytes } from '../foundation/ed25519.ts';
import { isKeyslotError, KeyslotError } from '../foundation/errors.ts';
import { Secret } from '../foundation/secret.ts';
import { exports as exportsKeys, imports, type Session, type SlotDescription } from './engine.ts';
import { keyId } from './ids.ts';
import { type KeyProvenance, provenanceOf } from './provenance.ts';

/** The contract of the agentic-wallet page: whole key pairs, saved and loaded under a wallet id. */
export interface KeyProvider {
  /** POWER_MISSING where the custody takes no keys, KEY_ID_INVALID, KEY_EXISTS for another key under this id. */
  save(walletId: string, keypair: Keypair): Promise<void>;
  /** KEY_UNKNOWN, KEY_NOT_EXPORTABLE: custody that keeps its keys gives out signers instead. */
  load(walletId: string): Promise<Keypair>;
  provenance(): KeyProvenance;
}

/**
 * A `KeyProvider` over any open slot; the session stays the caller's. Saving the same key again is no error.
 * A loaded `Keypair` is plain bytes in memory that nobody wipes: `session.signer` signs without it.
 *
 * @example
 * const description = await slot.describe();
 * await using session = await slot.open(pin);
 * const provider = createKeyProvider(session, description);
 * await provider.save('f47ac10b-58cc-4372-a567-0e02b2c3d479', Keypair.generate());
 */
export function createKeyProvider(
  session: Session,
  description: Pick<SlotDescription, 'custody'>,
): KeyProvider {
  return {
    save: async (walletId, keypair) => {
      const id = keyId(walletId);
      if (!imports(session)) {
        throw new KeyslotError('POWER_MISSING', `Slot ${session.slot} cannot import keys.`);
      }
      using seed = Secret.fromBytes(keypair.secretKey.subarray(0, seed_bytes));
      try {
        await session.import(id, seed);
      } catch (error) {
        if (!isKeyslotError(error) || error.code !== 'KEY_EXISTS') throw error;
        const { key } = await session.signer(id);
        if (Buffer.compare(key.publicKey, keypair.publicKey.toBytes()) !== 0) throw error;
      }
    },
    load: async walletId => {
      const id = keyId(walletId);
      if (!exportsKeys(session)) {
        throw new KeyslotError(
          'KEY_NOT_EXPORTABLE',
          `Slot ${session.slot} keeps its keys: ask the session for a signer of ${id}.`,
        );
      }
      using seed = await session.export(id);
      // When it is needed: whoever only signs does not have to install the library.
      const { Keypair } = await import('@solana/web3.js');
      return seed.use(bytes => Keypair.fromSeed(Uint8Array.from(bytes)));
    },
    provenance: () => provenanceOf(description.custody),
  };
}
