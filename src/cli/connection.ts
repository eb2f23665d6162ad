import { readFileSync } from 'node:fs';
import { request } from 'node:https';
import { type Config, inHome } from '../appliance/config.ts';
import { runningAppliance } from '../appliance/home.ts';
import { configOfHome } from '../appliance/page-environment.ts';
import { isErrorCode, KeyslotError, type Violation } from '../foundation/errors.ts';

/** The options that every command has. */
export interface SharedOptions {
  readonly home?: string;
  readonly as?: string;
  readonly json?: boolean;
}

/** The configuration of the state folder, or of the environment. HOME_INVALID when nobody said which folder. */
export function configOf({ home, as }: SharedOptions): Config {
  if (home) return as === undefined ? configOfHome(home) : calledAs(as, configOfHome(home));
  throw new KeyslotError('HOME_INVALID', 'No state folder is named: use --home or set KEYSLOT_HOME.');
}

/** With the certificate of another identity, whose private key is beside it: tls/client.crt, tls/client.key. */
function calledAs(name: string, config: Config): Config {
  const identity = config.identities.find(each => each.name === name);
  if (!config.command || !identity || !('certificate' in identity) || !('file' in identity.certificate)) {
    throw new KeyslotError('CONFIG_INVALID', `--as ${name}: no identity ${name} has a certificate file.`);
  }
  const { file: certificate } = identity.certificate;
  const key = certificate.replace(/\.[^./]*$/, '.key');
  return { ...config, command: { certificate, key, ca: config.command.ca } };
}

/**
 * Calls to the appliance of a state folder, with the client certificate that its `command:` setting names.
 * A problem that the appliance answers with is thrown as the error that it is.
 */
export class Connection {
  readonly #url: string;
  readonly #tls: { cert: Buffer; key: Buffer; ca: Buffer };

  constructor(config: Config) {
    const { host, port } = config.listen;
    this.#url = runningAppliance(config.home)?.url ?? `https://${host}:${port}`;
    const { command } = config;
    if (!command) {
      throw new KeyslotError(
        'CONFIG_INVALID',
        'command: names no client certificate for the keyslot command.',
      );
    }
    const read = (setting: keyof typeof command) => commandFile(inHome(config, command[setting]), setting);
    this.#tls = { cert: read('certificate'), key: read('key'), ca: read('ca') };
  }

  async get<T>(path: string): Promise<T> {
    return (await this.#exchange('GET', path, undefined)) as T;
  }

  async post<T>(path: string, body: unknown, terms: Terms = {}): Promise<T> {
    return (await this.#exchange('POST', path, JSON.stringify(body), terms)) as T;
  }

  async put<T>(path: string, body: unknown, terms: Terms = {}): Promise<T> {
    return (await this.#exchange('PUT', path, JSON.stringify(body), terms)) as T;
  }

  async delete<T>(path: string, terms: Terms = {}): Promise<T> {
    return (await this.#exchange('DELETE', path, undefined, terms)) as T;
  }

  async #exchange(
    method: string,
    path: string,
    body: string | undefined,
    terms: Terms = {},
  ): Promise<unknown> {
    const { status, text } = await this.#send(method, path, body, terms);
    const answer = parsed(text);
    if (status < 400) return answer;
    const { code = '', detail = '', violations } = (answer ?? {}) as Told;
    throw new KeyslotError(
      isErrorCode(code) ? code : 'INTERNAL',
      detail || `The appliance answered ${status}.`,
      violations ? { violations } : {},
    );
  }

  #send(
    method: string,
    path: string,
    body: string | undefined,
    { approval }: Terms,
  ): Promise<{ status: number; text: string }> {
    const { promise, resolve, reject } = Promise.withResolvers<{ status: number; text: string }>();
    const headers = {
      ...(body === undefined
        ? {}
        : { 'Content-Type': 'application/json', 'Content-Length': Buffer.byteLength(body) }),
      ...(approval === undefined ? {} : { 'Keyslot-Approval': approval }),
    };
    const sent = request(
      new URL(path, this.#url),
      { method, headers, ...this.#tls, timeout: answer_ms },
      response => {
        const chunks: Buffer[] = [];
        response.on('data', chunk => chunks.push(chunk));
        response.on('end', () =>
          resolve({ status: response.statusCode ?? 0, text: Buffer.concat(chunks).toString() }),
        );
        response.on('error', reject);
      },
    );
    sent.on('timeout', () => sent.destroy(new Error('no answer in time')));
    sent.on('error', cause => {
      reject(new KeyslotError('APPLIANCE_UNREACHABLE', `No appliance answers at ${this.#url}.`, { cause }));
    });
    sent.end(body);
    return promise;
  }
}

/** What goes along with a call that changes something. */
export interface Terms {
  /** The id of an approval. */
  readonly approval?: string | undefined;
}

/** As much of a problem as is used. */
interface Told {
  readonly code?: string;
  readonly detail?: string;
  readonly violations?: readonly Violation[];
}

function commandFile(path: string, setting: string): Buffer {
  try {
    return readFileSync(path);
  } catch (cause) {
    throw new KeyslotError('CONFIG_INVALID', `command.${setting}: ${path} cannot be read.`, { cause });
  }
}

const answer_ms = 40_000;

function parsed(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch (cause) {
    throw new KeyslotError('APPLIANCE_UNREACHABLE', 'Something else than Keyslot answers there.', { cause });
  }
}
