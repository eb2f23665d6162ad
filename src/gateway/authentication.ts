import { createHash } from 'node:crypto';
import type { IncomingMessage } from 'node:http';
import { TLSSocket } from 'node:tls';
import { KeyslotError } from '../foundation/errors.ts';
import type { Call, Credential } from '../wire/custodian.ts';

/**
 * Who is asking, as far as this process can establish it: the client certificate of the connection, or a
 * bearer token. A caller with a certificate may send the token of its PIN session as the bearer token; anybody
 * may send it in Keyslot-Session. Only digests go on to the custodian, which decides what they are worth.
 */
export function callOf(request: IncomingMessage, requestId: string): Call {
  const certificate = certificateOf(request.socket);
  const named = request.headers['keyslot-session'];
  const session = typeof named === 'string' ? named : certificate && bearerToken(request);
  return {
    requestId,
    credential: certificate ?? tokenOf(request),
    session: session === undefined ? undefined : sha256(session),
  };
}

/** Established once per connection: the certificate cannot change on it. */
function certificateOf(socket: IncomingMessage['socket']): Credential | undefined {
  const known = certificates.get(socket);
  if (known) return known;
  if (!(socket instanceof TLSSocket) || !socket.authorized) return undefined;
  const certificate = socket.getPeerX509Certificate();
  if (!certificate) return undefined;
  const spki = certificate.publicKey.export({ format: 'der', type: 'spki' });
  const credential = { certificate: sha256(spki) };
  certificates.set(socket, credential);
  return credential;
}

const certificates = new WeakMap<object, Credential>();

function tokenOf(request: IncomingMessage): Credential | undefined {
  const token = bearerToken(request);
  return token === undefined ? refuseForeignCertificate(request) : { token: sha256(token) };
}

/** RFC 6750 §2.1. CREDENTIAL_UNKNOWN for an Authorization header of another kind. */
function bearerToken({ headers }: IncomingMessage): string | undefined {
  if (headers.authorization === undefined) return undefined;
  const token = /^Bearer ([A-Za-z0-9._~+/=-]{16,512})$/i.exec(headers.authorization)?.[1];
  if (token !== undefined) return token;
  throw new KeyslotError('CREDENTIAL_UNKNOWN', 'The Authorization header does not hold a bearer token.');
}

/** A certificate of another CA is answered more helpfully than none at all. */
function refuseForeignCertificate({ socket }: IncomingMessage): undefined {
  if (!(socket instanceof TLSSocket) || socket.authorized || !socket.getPeerX509Certificate())
    return undefined;
  throw new KeyslotError(
    'CREDENTIAL_UNKNOWN',
    'The client certificate is not one of the configured CA, or has expired.',
  );
}

const sha256 = (bytes: string | Buffer): string => createHash('sha256').update(bytes).digest('hex');
