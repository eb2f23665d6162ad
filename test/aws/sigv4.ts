import { createHash, createHmac, timingSafeEqual } from 'node:crypto';
import type { IncomingMessage } from 'node:http';

export interface Credentials {
  readonly accessKeyId: string;
  readonly secretAccessKey: string;
}

/** The name of the error that AWS answers when a request is not signed (AWS Signature Version 4), or nothing. */
export function signatureProblem(
  request: IncomingMessage,
  body: Buffer,
  known: Credentials,
  service = 'kms',
): string | undefined {
  const { authorization } = request.headers;
  if (authorization === undefined) return 'MissingAuthenticationTokenException';
  const [, keyId, date, region, named, signedHeaders, signature] = form.exec(authorization) ?? [];
  if (!keyId || !date || !region || !signedHeaders || !signature) return 'IncompleteSignatureException';
  if (keyId !== known.accessKeyId) return 'UnrecognizedClientException';
  const headers = signedHeaders.split(';').map(name => `${name}:${String(request.headers[name]).trim()}\n`);
  const canonical = ['POST', '/', '', headers.join(''), signedHeaders, sha256(body)].join('\n');
  if (named !== service) return 'IncompleteSignatureException';
  const scope = `${date}/${region}/${service}/aws4_request`;
  const toSign = ['AWS4-HMAC-SHA256', request.headers['x-amz-date'], scope, sha256(canonical)].join('\n');
  const key = signingKey(known.secretAccessKey, date, region, service);
  const expected = hmac(key, toSign);
  return timingSafeEqual(expected, Buffer.from(signature, 'hex')) ? undefined : 'InvalidSignatureException';
}

/** The same for all requests of a day; deriving it costs more than the check itself. */
const signingKeys = new Map<string, Buffer>();

function signingKey(secret: string, date: string, region: string, service: string): Buffer {
  const name = [secret, date, region, service].join('/');
  const made =
    signingKeys.get(name) ??
    [date, region, service, 'aws4_request'].reduce<Buffer>(hmac, Buffer.from(`AWS4${secret}`));
  signingKeys.set(name, made);
  return made;
}

const form =
  /^AWS4-HMAC-SHA256 Credential=([^/]+)\/(\d{8})\/([^/]+)\/([a-z]+)\/aws4_request, SignedHeaders=([a-z0-9;-]+), Signature=([0-9a-f]{64})$/;

const sha256 = (data: string | Buffer): string => createHash('sha256').update(data).digest('hex');
const hmac = (key: Buffer, data: string): Buffer => createHmac('sha256', key).update(data).digest();
