import { createSecureContext } from 'node:tls';
import { Agent, fetch } from 'undici';
import type { Fetch } from './transport.ts';

/** For Node: a fetch that presents a client certificate. It needs the package `undici`. */

export interface MtlsOptions {
  /** The client's certificate and its private key, PEM. Without them the caller has a token. */
  readonly certificate?: string | Uint8Array | undefined;
  readonly key?: string | Uint8Array | undefined;
  /** The CA of the appliance's certificate, PEM: nobody else is believed to be the appliance. */
  readonly ca: string | Uint8Array;
  /** The name in the appliance's certificate, where it is not the host of the url. */
  readonly servername?: string | undefined;
  /** At most so many connections; what is above waits for one. */
  readonly connections?: number | undefined;
}

export interface MtlsFetch extends Fetch, AsyncDisposable {
  /** Closes the connections when what runs on them has ended. */
  close(): Promise<void>;
}

/**
 * Keeps its connections: the handshake is paid once, and not per signature. Certificates that do not fit together
 * or are no PEM throw here, a certificate that the other side does not accept is CLIENT_NETWORK of the call.
 *
 * @example
 * await using fetch = mtlsFetch({ certificate, key, ca });
 * const client = createKeyslotClient({ url: 'https://keyslot.internal:8443', fetch });
 */
export function mtlsFetch(options: MtlsOptions): MtlsFetch {
  const { certificate, key, ca, servername, connections = 64 } = options;
  const secureContext = createSecureContext({
    cert: pem(certificate),
    key: pem(key),
    ca: pem(ca),
    minVersion: 'TLSv1.2',
  });
  const dispatcher = new Agent({
    connect: { secureContext, ...(servername === undefined ? {} : { servername }) },
    connections,
    keepAliveTimeout: keepAlive_ms,
  });
  const close = () => dispatcher.close();
  const send: Fetch = (url, init) => fetch(url, { ...init, dispatcher });
  return Object.assign(send, { close, [Symbol.asyncDispose]: close });
}

const pem = (text: string | Uint8Array | undefined) =>
  text instanceof Uint8Array ? Buffer.from(text) : text;

// Below the 75 seconds after which the appliance closes an idle connection.
const keepAlive_ms = 60_000;
