import {
  createCipheriv,
  createDecipheriv,
  createHash,
  createPrivateKey,
  createPublicKey,
  randomBytes,
  scryptSync,
} from 'node:crypto';
import type { SealedTextForm } from '../../src/sealing/sealed-text.ts';

/**
 * The key files of the agentic-wallet program once more, written from the description of their formats with
 * node:crypto alone, so that tests hold Keyslot's reading and writing against something that shares no code.
 */

export function oldSeal(text: string, secret: string, form: SealedTextForm): string {
  const iv = randomBytes(form === 'documented' ? 16 : 12);
  const salt = randomBytes(16);
  const cipher = createCipheriv('aes-256-gcm', oldKey(secret, form, salt), iv);
  const data = Buffer.concat([cipher.update(text, 'utf8'), cipher.final()]).toString('base64');
  const tag = cipher.getAuthTag().toString('base64');
  return form === 'documented'
    ? JSON.stringify({ iv: iv.toString('base64'), encrypted: data, authTag: tag })
    : JSON.stringify({ v: 1, salt: salt.toString('base64'), iv: iv.toString('base64'), tag, data });
}

export function oldOpen(sealed: string, secret: string): string {
  const fields = JSON.parse(sealed) as Record<string, string>;
  const bytes = (name: string) => Buffer.from(fields[name] ?? '', 'base64');
  const documented = 'authTag' in fields;
  const key = oldKey(secret, documented ? 'documented' : 'deployed', bytes('salt'));
  const decipher = createDecipheriv('aes-256-gcm', key, bytes('iv'));
  decipher.setAuthTag(bytes(documented ? 'authTag' : 'tag'));
  return (
    decipher.update(bytes(documented ? 'encrypted' : 'data'), undefined, 'utf8') + decipher.final('utf8')
  );
}

function oldKey(secret: string, form: SealedTextForm, salt: Buffer): Buffer {
  if (form === 'documented') return createHash('sha256').update(secret).digest();
  return scryptSync(secret, salt, 32, { N: 16_384, r: 8, p: 1 });
}

/** The 64 bytes that each file gives, by the ways of its format. */
export const oldLoad = {
  '.json': (file: string, secret: string) => Buffer.from(JSON.parse(oldOpen(file, secret)) as number[]),
  '.hsm.json': (file: string, moduleSecret: string, pin: string) => {
    const { slotId, wrappedSecret } = JSON.parse(file) as { slotId: string; wrappedSecret: string };
    return Buffer.from(oldOpen(wrappedSecret, `${moduleSecret}:${slotId}:${pin}`), 'base64');
  },
  '.kms.json': (file: string, masterSecret: string) => {
    const fields = JSON.parse(file) as { keyId: string; wrappedDataKey: string; encryptedSecret: string };
    const dataKey = oldOpen(fields.wrappedDataKey, `${masterSecret}:${fields.keyId}`);
    return Buffer.from(oldOpen(fields.encryptedSecret, dataKey), 'base64');
  },
  /** Through the two shares at these places of the list. */
  '.mpc.json': (file: string, nodeSecrets: readonly string[], first: number, second: number) => {
    const { shares } = JSON.parse(file) as { shares: { id: number; wrapped: string }[] };
    const share = (at: number) => {
      const { id, wrapped } = shares[at] ?? { id: 0, wrapped: '' };
      return { id, bytes: Buffer.from(oldOpen(wrapped, nodeSecrets[id - 1] ?? ''), 'base64') };
    };
    return oldJoin(share(first), share(second));
  },
};

/** f(0) of the line through two shares, by trying all of f(0) and `a` for each byte. */
export function oldJoin(
  one: { id: number; bytes: Uint8Array },
  two: { id: number; bytes: Uint8Array },
): Buffer {
  return Buffer.from(
    one.bytes.map((y1, at) => {
      const y2 = two.bytes[at] ?? 0;
      const a = everyByte.find(
        each => (slowMultiply(each, one.id) ^ slowMultiply(each, two.id)) === (y1 ^ y2),
      );
      return y1 ^ slowMultiply(a ?? 0, one.id);
    }),
  );
}

const everyByte = Array.from({ length: 256 }, (_, byte) => byte);

/** Polynomials multiplied as on paper, then reduced by x^8 + x^4 + x^3 + x + 1. */
export function slowMultiply(a: number, b: number): number {
  let product = 0;
  for (let bit = 0; bit < 8; bit += 1) if (b & (1 << bit)) product ^= a << bit;
  for (let bit = 14; bit >= 8; bit -= 1) if (product & (1 << bit)) product ^= 0x11b << (bit - 8);
  return product;
}

/** A fresh 64-byte secret key, its public key from node:crypto by way of JWK. */
export function freshSecretKey(seed: Uint8Array = randomBytes(32)): Buffer {
  const pkcs8 = Buffer.concat([Buffer.from('302e020100300506032b657004220420', 'hex'), seed]);
  const privateKey = createPrivateKey({ key: pkcs8, format: 'der', type: 'pkcs8' });
  const { x } = createPublicKey(privateKey).export({ format: 'jwk' });
  return Buffer.concat([seed, Buffer.from(x ?? '', 'base64url')]);
}
