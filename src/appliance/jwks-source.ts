import { readFileSync } from 'node:fs';
import { open } from 'node:fs/promises';
import { get as httpGet, type IncomingMessage } from 'node:http';
import { get as httpsGet } from 'node:https';
import type { JwksSource } from '../custodian/jwks.ts';
import { KeyslotError } from '../foundation/errors.ts';
import { type Config, inHome, type JwtIssuerConfig } from './config.ts';

/** Where the keys of a token issuer are read. CONFIG_INVALID when the CA of its server cannot be read. */
export function jwksSource(
  config: Pick<Config, 'home'>,
  { jwks, refresh_s, max_s }: Pick<JwtIssuerConfig, 'jwks' | 'refresh_s' | 'max_s'>,
): JwksSource {
  const max_ms = max_s * 1000;
  if ('file' in jwks) {
    const path = inHome(config, jwks.file);
    const refresh_ms = Math.min(fileRefresh_ms, max_ms);
    return { read: () => fileText(path), refresh_ms, max_ms, cooldown_ms: fileCooldown_ms };
  }
  const ca = jwks.ca === undefined ? undefined : caText(inHome(config, jwks.ca));
  return {
    read: () => urlText(jwks.url, ca),
    refresh_ms: refresh_s * 1000,
    max_ms,
    cooldown_ms: urlCooldown_ms,
  };
}

/** A file costs next to nothing to read: whoever changes it sees the change at once. */
const fileRefresh_ms = 2_000;
const fileCooldown_ms = 200;
/** An issuer must not be asked as often as somebody sends tokens. */
const urlCooldown_ms = 10_000;
const jwks_bytes_max = 256 * 1024;
const answer_ms = 5_000;

async function fileText(path: string): Promise<string> {
  await using file = await open(path);
  if ((await file.stat()).size > jwks_bytes_max) throw unreadable('the file is too large');
  return file.readFile('utf8');
}

/** No redirect is followed: keys come from the address that is configured. */
async function urlText(url: string, ca: string | undefined): Promise<string> {
  const { promise, resolve, reject } = Promise.withResolvers<IncomingMessage>();
  const signal = AbortSignal.timeout(answer_ms);
  const options = { headers: { accept: 'application/json' }, signal, agent: false } as const;
  const request = url.startsWith('https:')
    ? httpsGet(url, { ...options, ...(ca === undefined ? {} : { ca }) }, resolve)
    : httpGet(url, options, resolve);
  request.on('error', reject);
  const answer = await promise;
  try {
    if (answer.statusCode !== 200)
      throw unreadable(`the issuer answered with HTTP status ${answer.statusCode}`);
    const parts: Buffer[] = [];
    let read_bytes = 0;
    for await (const part of answer as AsyncIterable<Buffer>) {
      parts.push(part);
      read_bytes += part.length;
      if (read_bytes > jwks_bytes_max) throw unreadable('the answer of the issuer is too large');
    }
    return Buffer.concat(parts).toString('utf8');
  } finally {
    request.destroy();
  }
}

function caText(path: string): string {
  try {
    return readFileSync(path, 'utf8');
  } catch (cause) {
    throw new KeyslotError('CONFIG_INVALID', `jwtIssuers: ${path} cannot be read.`, { cause });
  }
}

const unreadable = (why: string) => new KeyslotError('JWKS_UNAVAILABLE', `The keys cannot be read: ${why}.`);
