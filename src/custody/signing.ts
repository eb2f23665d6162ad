import { KeyslotError } from '../foundation/errors.ts';
import { limits } from '../foundation/limits.ts';

/** What every signer asks of a message before it does anything: MESSAGE_EMPTY, MESSAGE_TOO_LARGE. */
export function refuseUnsignable(message: Uint8Array, bytes_max: number = limits.message_bytes_max): void {
  if (message.length === 0) throw new KeyslotError('MESSAGE_EMPTY', 'The message has no bytes.');
  if (message.length > bytes_max) {
    throw new KeyslotError(
      'MESSAGE_TOO_LARGE',
      `The message has ${message.length} bytes; at most ${bytes_max} are signed.`,
    );
  }
}

/** REQUEST_ABORTED when nobody waits for the signature any more. */
export function refuseAborted(signal: AbortSignal | undefined): void {
  if (signal?.aborted) throw new KeyslotError('REQUEST_ABORTED', 'Signing was aborted by its caller.');
}
