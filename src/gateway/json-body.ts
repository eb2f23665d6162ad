import type { IncomingMessage } from 'node:http';
import { KeyslotError } from '../foundation/errors.ts';

/**
 * Reads one bounded JSON body. Written here and not taken from a middleware, because it is on the path of every
 * signature: no decompression, no charset guessing, nothing before the limit is known to hold.
 * BODY_TOO_LARGE, CONTENT_TYPE_UNSUPPORTED, BODY_NOT_JSON. No body at all reads as `{}`. `takesType` may take
 * requests whose type is another one, or missing.
 */
export async function readJson(
  request: IncomingMessage,
  bytes_max: number,
  takesType: (request: IncomingMessage) => boolean = () => false,
): Promise<unknown> {
  const declared = Number(request.headers['content-length'] ?? 0);
  if (declared > bytes_max) throw tooLarge(bytes_max);
  const body = await collect(request, bytes_max);
  if (body.length === 0) return {};
  refuseOtherTypes(request, takesType);
  try {
    return JSON.parse(body.toString('utf8'));
  } catch (cause) {
    throw new KeyslotError('BODY_NOT_JSON', 'The body does not parse as JSON.', { cause });
  }
}

/** Whether the head of a request announces a body. */
export const hasBody = ({ headers }: IncomingMessage): boolean =>
  headers['transfer-encoding'] !== undefined || Number(headers['content-length'] ?? 0) > 0;

function collect(request: IncomingMessage, bytes_max: number): Promise<Buffer> {
  const { promise, resolve, reject } = Promise.withResolvers<Buffer>();
  const chunks: Buffer[] = [];
  let length = 0;
  request.on('data', (chunk: Buffer) => {
    length += chunk.length;
    if (length > bytes_max) {
      request.pause();
      reject(tooLarge(bytes_max));
    } else chunks.push(chunk);
  });
  request.on('end', () => {
    const [only] = chunks;
    resolve(chunks.length === 1 && only ? only : Buffer.concat(chunks));
  });
  const aborted = () => reject(new KeyslotError('REQUEST_ABORTED', 'The connection ended inside the body.'));
  request.on('error', aborted);
  request.on('aborted', aborted);
  return promise;
}

function refuseOtherTypes(request: IncomingMessage, takesType: (request: IncomingMessage) => boolean): void {
  const type = request.headers['content-type'] ?? '';
  const taken = /^application\/json\s*(;|$)/i.test(type) || takesType(request);
  if (taken && request.headers['content-encoding'] === undefined) return;
  throw new KeyslotError('CONTENT_TYPE_UNSUPPORTED', 'The body is not sent as plain application/json.');
}

const tooLarge = (bytes_max: number) =>
  new KeyslotError('BODY_TOO_LARGE', `The body has more than ${bytes_max} bytes.`);
