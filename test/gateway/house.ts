import { createHash, X509Certificate } from 'node:crypto';
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { stringify } from 'yaml';
import { createAuthority, type Issued } from '../../src/appliance/certificates.ts';
import { createKeyslotClient, type KeyslotClient } from '../../src/client/index.ts';
import { type MtlsFetch, mtlsFetch } from '../../src/client/node.ts';
import type { Role } from '../../src/custodian/grants.ts';
import type { Identity } from '../../src/custodian/identities.ts';
import { slotId } from '../../src/custody/ids.ts';
import { createMemoryEngine } from '../../src/engines/memory/index.ts';
import { silentLog } from '../../src/foundation/log.ts';
import { Gateway, type GatewayOptions } from '../../src/gateway/gateway.ts';
import { grantOperations } from '../../src/wire/identities.ts';
import { pinText } from '../custodian/device.ts';
import { Lab, type LabSettings } from '../custodian/lab.ts';
import { Client } from '../e2e/appliance.ts';

/**
 * A custodian of a lab behind a real gateway, in one process: HTTPS with a client certificate for each person. The
 * slot `main` is in memory, so its keys can be exported and destroyed.
 */
export class House implements AsyncDisposable {
  readonly lab: Lab;
  readonly url: string;
  readonly #engine: AsyncDisposable;
  readonly #gateway: Gateway;
  readonly #ca: string;
  readonly #people: ReadonlyMap<string, Issued>;
  readonly #folder = mkdtempSync(join(tmpdir(), 'keyslot-house-'));
  readonly #clients: Client[] = [];
  readonly #fetches: MtlsFetch[] = [];

  private constructor(
    parts: { lab: Lab; engine: AsyncDisposable; gateway: Gateway },
    ca: string,
    people: ReadonlyMap<string, Issued>,
  ) {
    this.lab = parts.lab;
    this.#engine = parts.engine;
    this.#gateway = parts.gateway;
    this.url = parts.gateway.url;
    this.#ca = ca;
    this.#people = people;
  }

  static async open(
    roles: Readonly<Record<string, readonly Role[]>>,
    settings: LabSettings = {},
    gatewaySettings: Partial<GatewayOptions> = {},
  ): Promise<House> {
    const authority = await createAuthority('Keyslot house CA');
    const server = await authority.issueServer(['127.0.0.1']);
    const people = new Map<string, Issued>();
    // Everything but these is what '*' says.
    const grants = [{ slots: '*' as const, operations: [...grantOperations] }];
    const identities: Identity[] = [];
    for (const [name, theirs] of Object.entries(roles)) {
      const issued = await authority.issueClient(name);
      people.set(name, issued);
      const recognisedBy = { spki: spkiOf(issued.certificate) };
      identities.push({ name, roles: theirs, grants, source: 'configuration', recognisedBy });
    }
    const engine = createMemoryEngine(slotId('main'));
    const [slot] = await engine.slots();
    if (!slot) throw new TypeError('The memory engine has no slot.');
    const lab = await Lab.with({ identities, ...settings }, { slot, source: () => pinText });
    await lab.custodian.openUnattended();
    const any = { host: '127.0.0.1', port: 0 };
    const gateway = await Gateway.start({
      listen: any,
      ops: any,
      tls: { cert: server.certificate, key: server.key, ca: authority.certificate },
      requireCertificate: true,
      wallets: {},
      vaultTransit: { mount: 'transit' },
      custodian: lab.custodian,
      log: silentLog,
      ...gatewaySettings,
    });
    return new House({ lab, engine, gateway }, authority.certificate, people);
  }

  get opsUrl(): string {
    return this.#gateway.opsUrl;
  }

  /** Plain HTTPS as somebody. */
  as(name: string): Client {
    const { certificate: cert, key } = this.#person(name);
    const client = new Client(this.url, { ca: this.#ca, cert, key });
    this.#clients.push(client);
    return client;
  }

  /** The client of the package as somebody. */
  clientOf(name: string): KeyslotClient {
    const { certificate, key } = this.#person(name);
    const fetch = mtlsFetch({ ca: this.#ca, certificate, key });
    this.#fetches.push(fetch);
    return createKeyslotClient({ url: this.url, fetch });
  }

  /** A state folder whose `keyslot` command is somebody. */
  homeOf(name: string): string {
    const home = join(this.#folder, name);
    const { certificate, key } = this.#person(name);
    mkdirSync(join(home, 'tls'), { recursive: true });
    const files = { 'ca.crt': this.#ca, [`${name}.crt`]: certificate, [`${name}.key`]: key };
    for (const [file, pem] of Object.entries(files))
      writeFileSync(join(home, 'tls', file), pem, { mode: 0o600 });
    const config = {
      listen: { host: '127.0.0.1', port: Number(new URL(this.url).port) },
      tls: { certificate: 'tls/ca.crt', key: `tls/${name}.key`, clientCa: 'tls/ca.crt' },
      command: { certificate: `tls/${name}.crt`, key: `tls/${name}.key`, ca: 'tls/ca.crt' },
      identities: [{ name, roles: ['signer'], slots: '*', certificate: { file: `tls/${name}.crt` } }],
      profile: 'development',
      audit: { unsigned: true },
      slots: [{ id: 'main', engine: 'memory', pin: { attended: true }, access: 'identity' }],
    };
    writeFileSync(join(home, 'keyslot.yaml'), stringify(config), { mode: 0o600 });
    return home;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const client of this.#clients) client.close();
    for (const fetch of this.#fetches) await fetch.close();
    await this.#gateway[Symbol.asyncDispose]();
    await this.lab[Symbol.asyncDispose]();
    await this.#engine[Symbol.asyncDispose]();
    rmSync(this.#folder, { recursive: true, force: true });
  }

  #person(name: string): Issued {
    const issued = this.#people.get(name);
    if (issued) return issued;
    throw new TypeError(`Nobody is called ${name}.`);
  }
}

const spkiOf = (pem: string): string =>
  createHash('sha256')
    .update(new X509Certificate(pem).publicKey.export({ format: 'der', type: 'spki' }))
    .digest('hex');
