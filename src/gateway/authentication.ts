import { createHash, X509Certificate } from 'node:crypto';
import type { IncomingMessage } from 'node:http';
import { TLSSocket } from 'node:tls';
import { KeyslotError } from '../foundation/errors.ts';
import type { Call, Credential } from '../wire/custodian.ts';

/**
 * Who is asking, as far as this process can establish it: the client certificate of the connection, or a
 * bearer token. A caller with a certificate may send the token of its PIN session as the bearer token; anybody
 * may send it in Keyslot-Session. Of certificates and tokens only digests go on to the custodian, which decides
 * what they are worth; a JWT goes on whole, because the custodian checks its signature.
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
  const issuer = issuerOf(socket, certificate);
  const credential = {
    certificate: spkiDigest(certificate),
    ...(issuer ? { issuer: spkiDigest(issuer) } : {}),
    names: namesOf(certificate.subjectAltName ?? ''),
  };
  certificates.set(socket, credential);
  return credential;
}

const certificates = new WeakMap<object, Credential>();

/** The certificate that it was verified with: as the client has sent it, or out of the listener's own list. */
function issuerOf(socket: TLSSocket, certificate: X509Certificate): X509Certificate | undefined {
  const { issuerCertificate } = socket.getPeerCertificate(true);
  if (!issuerCertificate?.raw) return undefined;
  const issuer = new X509Certificate(issuerCertificate.raw);
  return certificate.verify(issuer.publicKey) ? issuer : undefined;
}

/**
 * RFC 5280 §4.2.1.6, as Node prints it: `DNS:host, URI:spiffe://…`. A name that Node had to quote is left out, since
 * it holds what could pass for another name.
 */
function namesOf(subjectAltName: string): string[] {
  const items = [...subjectAltName.matchAll(/([A-Za-z0-9 .]+):("(?:[^"\\]|\\.)*"|[^,"]*)(?:, |$)/gy)];
  const read_chars = items.reduce((sum, [item]) => sum + item.length, 0);
  if (read_chars !== subjectAltName.length) return []; // of what is not understood, nothing is believed
  return items
    .flatMap(([, type = '', value = '']) => {
      const prefix = prefixes.get(type);
      return prefix === undefined || value === '' || value.startsWith('"') ? [] : [`${prefix}:${value}`];
    })
    .filter(name => name.length <= name_chars_max)
    .slice(0, names_max);
}

const prefixes: ReadonlyMap<string, string> = new Map([
  ['DNS', 'dns'],
  ['URI', 'uri'],
  ['email', 'email'],
  ['IP Address', 'ip'],
]);
const names_max = 32;
const name_chars_max = 520;

function tokenOf(request: IncomingMessage): Credential | undefined {
  const token = bearerToken(request);
  if (token === undefined) return refuseForeignCertificate(request);
  return isJwt(token) ? { jwt: token } : { token: sha256(token) };
}

/** RFC 7515 §7.1: three parts, of which the first begins with `{"`. No token of our own holds a full stop. */
const isJwt = (token: string): boolean => token.startsWith('eyJ') && token.split('.').length === 3;

/** RFC 6750 §2.1. CREDENTIAL_UNKNOWN for an Authorization header of another kind. */
function bearerToken({ headers }: IncomingMessage): string | undefined {
  if (headers.authorization === undefined) return undefined;
  const token = /^Bearer ([A-Za-z0-9._~+/=-]{16,8192})$/i.exec(headers.authorization)?.[1];
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

const spkiDigest = ({ publicKey }: X509Certificate): string =>
  sha256(publicKey.export({ format: 'der', type: 'spki' }));

const sha256 = (bytes: string | Buffer): string => createHash('sha256').update(bytes).digest('hex');
