/**
 * Standard base64 with padding (RFC 4648 §4), strictly: no line breaks, no URL alphabet, no stray bits.
 * Returns `undefined` for anything else. Encoding again is the check, because Node's decoder skips what it
 * does not know, and one text must mean one byte string.
 */
export function decodeBase64(text: string): Buffer | undefined {
  if (text.length % 4 !== 0) return undefined;
  const bytes = Buffer.from(text, 'base64');
  return bytes.toString('base64') === text ? bytes : undefined;
}

export const encodeBase64 = (bytes: Uint8Array): string =>
  Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength).toString('base64');
