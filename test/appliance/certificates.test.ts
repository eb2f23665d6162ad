import { createPrivateKey, X509Certificate } from 'node:crypto';
import { once } from 'node:events';
import { connect, createServer, type TLSSocket } from 'node:tls';
import { beforeAll, describe, expect, it } from 'vitest';
import { type Authority, createAuthority, type Issued } from '../../src/appliance/certificates.ts';

let authority: Authority;
let server: Issued;
let client: Issued;

beforeAll(async () => {
  authority = await createAuthority('Keyslot test CA');
  server = await authority.issueServer(['localhost', 'hsm.example', '127.0.0.1', '::1']);
  client = await authority.issueClient('payments');
});

const read = ({ certificate }: Issued) => new X509Certificate(certificate);
const serverAuth = '1.3.6.1.5.5.7.3.1';
const clientAuth = '1.3.6.1.5.5.7.3.2';

describe('a certificate', () => {
  it('is signed by its authority, and by no other of the same name', async () => {
    const other = await createAuthority('Keyslot test CA');
    for (const issued of [server, client]) {
      expect(read(issued).verify(read(authority).publicKey)).toBe(true);
      expect(read(issued).checkIssued(read(authority))).toBe(true);
      expect(read(issued).verify(read(other).publicKey)).toBe(false);
    }
  });

  it('goes with its private key', () => {
    for (const issued of [authority, server, client]) {
      expect(read(issued).checkPrivateKey(createPrivateKey(issued.key))).toBe(true);
    }
  });

  it('is for one purpose: only the authority issues, servers serve, clients call', () => {
    expect([authority, server, client].map(issued => read(issued).ca)).toEqual([true, false, false]);
    expect(read(server).keyUsage).toEqual([serverAuth]);
    expect(read(client).keyUsage).toEqual([clientAuth]);
  });

  it('of a server answers to its names and addresses and to no other', () => {
    const certificate = read(server);
    expect(certificate.checkHost('localhost')).toBe('localhost');
    expect(certificate.checkHost('hsm.example')).toBe('hsm.example');
    expect(certificate.checkHost('other.example')).toBeUndefined();
    expect(certificate.checkIP('127.0.0.1')).toBe('127.0.0.1');
    expect(certificate.checkIP('::1')).toBe('::1');
    expect(certificate.checkIP('127.0.0.2')).toBeUndefined();
  });

  it('is valid now, an hour back, and for as long as was asked', async () => {
    const short = read(await createAuthority('Short', 1));
    for (const certificate of [read(server), short]) {
      expect(certificate.validFromDate.getTime()).toBeLessThan(Date.now() - 3_000_000);
      expect(certificate.validToDate.getTime()).toBeGreaterThan(Date.now());
    }
    expect(short.validToDate.getTime()).toBeLessThanOrEqual(Date.now() + 86_400_000);
  });

  it('has a serial number of its own, positive and of 16 bytes', async () => {
    const serials = await Promise.all(
      Array.from({ length: 50 }, async () => read(await authority.issueClient('x'))),
    );
    expect(new Set(serials.map(each => each.serialNumber)).size).toBe(50);
    for (const { serialNumber } of serials) expect(BigInt(`0x${serialNumber}`) >> 127n).toBe(0n);
  });
});

describe('TLS with client certificates', () => {
  it('authorises a client of the authority, and neither a server certificate nor a foreign one', async () => {
    const foreign = await (await createAuthority('Keyslot test CA')).issueClient('payments');
    const seen: boolean[] = [];
    const listener = createServer(
      {
        cert: server.certificate,
        key: server.key,
        ca: authority.certificate,
        requestCert: true,
        rejectUnauthorized: false,
      },
      (socket: TLSSocket) => {
        seen.push(socket.authorized);
        socket.on('error', () => undefined);
        socket.end('done');
      },
    ).listen(0, '127.0.0.1');
    await once(listener, 'listening');
    const { port } = listener.address() as { port: number };
    for (const { certificate, key } of [client, server, foreign]) {
      const socket = connect({ port, host: '127.0.0.1', ca: authority.certificate, cert: certificate, key });
      await once(socket.resume(), 'close');
      expect(socket.authorizationError).toBeNull();
    }
    listener.close();
    expect(seen).toEqual([true, false, false]);
  });
});
