import { KeyslotError } from '../foundation/errors.ts';

declare const brand: unique symbol;
type Branded<T, Name> = T & { readonly [brand]: Name };

/** Names a key, once in the whole appliance, for the life of its address: `[a-z0-9][a-z0-9-]{0,62}`. */
export type KeyId = Branded<string, 'KeyId'>;
/** Names a slot of the configuration; the same form as a key id. */
export type SlotId = Branded<string, 'SlotId'>;
/** 32 bytes, RFC 8032 §5.1.2. */
export type PublicKeyBytes = Branded<Uint8Array, 'PublicKeyBytes'>;
/** 64 bytes, RFC 8032 §5.1.6. */
export type Signature = Branded<Uint8Array, 'Signature'>;

const idForm = /^[a-z0-9][a-z0-9-]{0,62}$/;

export const isId = (text: string): boolean => idForm.test(text);

/** Throws KEY_ID_INVALID. A key id becomes file names and token labels, so nothing else may pass. */
export function keyId(text: string): KeyId {
  if (!isId(text)) throw new KeyslotError('KEY_ID_INVALID', `${quoted(text)} is not a key id.`);
  return text as KeyId;
}

/** Throws SLOT_ID_INVALID. */
export function slotId(text: string): SlotId {
  if (!isId(text)) throw new KeyslotError('SLOT_ID_INVALID', `${quoted(text)} is not a slot id.`);
  return text as SlotId;
}

/** Throws a RangeError for another length: a programming error, not a caller's. */
export function publicKeyBytes(bytes: Uint8Array): PublicKeyBytes {
  if (bytes.length !== 32) throw new RangeError(`A public key has 32 bytes, not ${bytes.length}.`);
  return bytes as PublicKeyBytes;
}

/** Throws a RangeError for another length: a programming error, not a caller's. */
export function signature(bytes: Uint8Array): Signature {
  if (bytes.length !== 64) throw new RangeError(`A signature has 64 bytes, not ${bytes.length}.`);
  return bytes as Signature;
}

/** A caller's text made safe to repeat in an error or a log: short, and of visible ASCII only. */
const quoted = (text: string): string =>
  JSON.stringify((text.length > 80 ? `${text.slice(0, 80)}...` : text).replace(/[^\x20-\x7e]/g, '?'));
