import type { KeyId, PublicKeyBytes } from '../../custody/ids.ts';
import { publicKeyFromSeed } from '../../foundation/ed25519.ts';
import { KeyslotError } from '../../foundation/errors.ts';
import type { Secret } from '../../foundation/secret.ts';
import type { Dealing } from '../../sealing/keyslot-form.ts';
import { joinShares, type Share, type ShareId, shareIds, splitSecret } from '../../sealing/shamir.ts';

/**
 * A seed in three shares, any two of which give it back. Which seed is right is not a matter of votes: it is the
 * one whose public key the file states under its seals. A share that did not open, or that fits to neither of
 * the others, is told to `onOddShare`.
 */
export function shamirDealing(onOddShare: (key: KeyId, shares: readonly ShareId[]) => void): Dealing {
  return {
    deal: seed => splitSecret(seed).map(share => share.bytes),
    gather: (parts, publicKey, key) => {
      const shares = parts.flatMap((bytes, at): Share[] => {
        const id = shareIds[at];
        return bytes && id ? [{ id, bytes }] : [];
      });
      if (shares.length < 2) throw insufficient(key, shares);
      const [first, second, third] = shares;
      if (!first || !second) throw insufficient(key, shares);
      const seed = joined(first, second, publicKey);
      if (seed) {
        if (!third) onOddShare(key, missing(shares));
        else if (!fits(third, first, seed)) onOddShare(key, [third.id]);
        return seed;
      }
      if (third) {
        for (const [one, other, odd] of [
          [first, third, second],
          [second, third, first],
        ] as const) {
          const rescued = joined(one, other, publicKey);
          if (rescued) {
            onOddShare(key, [odd.id]);
            return rescued;
          }
        }
      }
      const ids = shares.map(share => share.id).join(', ');
      throw new KeyslotError(
        'KEY_FILE_TAMPERED',
        `Shares ${ids} of key ${key} open, but do not make up the key.`,
      );
    },
  };
}

function joined(one: Share, other: Share, publicKey: PublicKeyBytes): Secret | undefined {
  const seed = joinShares(one, other);
  if (Buffer.compare(seed.use(publicKeyFromSeed), publicKey) === 0) return seed;
  seed[Symbol.dispose]();
  return undefined;
}

function fits(share: Share, other: Share, seed: Secret): boolean {
  using found = joinShares(share, other);
  return found.equals(seed);
}

const missing = (shares: readonly Share[]): readonly ShareId[] =>
  shareIds.filter(id => !shares.some(share => share.id === id));

const insufficient = (key: KeyId, shares: readonly Share[]) =>
  new KeyslotError(
    'SHARES_INSUFFICIENT',
    `Of key ${key}, share ${missing(shares).join(', ')} could not be opened with the secrets of the nodes.`,
  );
