import { createHash, randomBytes } from 'node:crypto';
import { encodeBase64 } from '../foundation/base64.ts';
import { KeyslotError } from '../foundation/errors.ts';
import { limits } from '../foundation/limits.ts';
import type { MigrationProof } from '../store/migrations-journal.ts';
import { type BoundSigner, missingKey } from './slot-keeper.ts';

/**
 * Has a key sign a fresh challenge in its slot, and checks the signature with the registered public key.
 * MIGRATION_UNPROVEN, KEY_MISSING, and what the custody answers.
 */
export async function proveKey(migration: string, bound: BoundSigner, at: Date): Promise<MigrationProof> {
  const { signer, slot, verifier } = bound;
  const challenge = freshChallenge(migration, signer.key.id);
  const signature = await signer.sign(challenge, AbortSignal.timeout(limits.request_ms)).catch(thrown => {
    throw missingKey(thrown, signer.key.id, slot);
  });
  if (!(await verifier.verify(challenge, signature))) {
    throw new KeyslotError(
      'MIGRATION_UNPROVEN',
      `The signature that slot ${slot} made with ${signer.key.id} does not verify.`,
    );
  }
  return {
    slot,
    at: at.toISOString(),
    challenge: encodeBase64(challenge),
    challengeSha256: createHash('sha256').update(challenge).digest('hex'),
    signature: encodeBase64(signature),
  };
}

/**
 * Says what it is, and is never a transaction: read as one, its first byte `k` (107) announces more signers
 * than the challenge has room for.
 */
const freshChallenge = (migration: string, key: string): Buffer =>
  Buffer.concat([Buffer.from(`keyslot migration ${migration} key ${key}\n`), randomBytes(32)]);
