const signature_bytes = 64;
const version_bit = 0x80;
const v1_prefix = 0x81;

/**
 * The wire transaction of a compiled message, with no signature in its places: those of other signers say
 * nothing about what is signed, and only the key's own comes back. Legacy and v0 transactions begin with the
 * count of their signatures (a compact-u16, one byte for what a transaction can have), version 1 ends with them
 * and has no count (SIMD-0385). A message that is none makes a transaction that the appliance refuses.
 */
export function unsignedWire(message: Uint8Array): Uint8Array {
  const [first = 0, second = 0] = message;
  const count = first & version_bit ? second : first;
  const places_bytes = count * signature_bytes;
  const head_bytes = first === v1_prefix ? 0 : 1;
  const wire = new Uint8Array(head_bytes + places_bytes + message.length);
  if (head_bytes > 0) wire[0] = count;
  wire.set(message, first === v1_prefix ? 0 : head_bytes + places_bytes);
  return wire;
}
