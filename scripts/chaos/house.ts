import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { parse, stringify } from 'yaml';
import { secretFile } from '../../src/appliance/development.ts';
import { createToken } from '../../src/appliance/tokens.ts';
import { createKeyslotClient, type KeyslotClient } from '../../src/client/index.ts';
import { mtlsFetch } from '../../src/client/node.ts';
import { everythingAllowed } from '../../src/policy/permissive.ts';
import { Faulty } from '../../test/engines/pkcs11/faulty/faulty.ts';
import { type Appliance, type BenchHome, benchKey, prepareHome, startAppliance } from '../bench/appliance.ts';
import { childOf } from '../bench/processes.ts';

/** What everything signs with. */
export const key = benchKey;

/** The token with the key; the audit log has another one. */
export const tokenLabel = 'keyslot-bench';

/** A state folder whose tokens are behind the module that misbehaves on demand. */
export interface FaultyHome extends BenchHome {
  readonly faulty: Faulty;
}

export interface HouseOptions {
  readonly sessions?: number;
  readonly threads?: number;
  /** Without the key that shows on an interval that the slot signs: what is injected meets requests only. */
  readonly withoutCanary?: boolean;
  /** A second token, in a group with the first, and a policy that lets this key sign everything. */
  readonly pairedKey?: string;
}

export async function prepareFaultyHome(
  stack: AsyncDisposableStack,
  { sessions, threads, withoutCanary, pairedKey }: HouseOptions = {},
): Promise<FaultyHome> {
  const home = await prepareHome(stack);
  const faulty = stack.use(await Faulty.make({ inner: home.module }));
  const path = join(home.home, 'keyslot.yaml');
  const config = parse(readFileSync(path, 'utf8')) as YamlConfig;
  if (pairedKey !== undefined) await addMate(home, config, pairedKey);
  for (const slot of config.slots) {
    const { id, settings } = slot;
    if (withoutCanary) slot.canary = 'off';
    settings.module = faulty.modulePath;
    if (sessions !== undefined && id === 'main') settings.sessions = sessions;
    Object.assign(settings.environment, faulty.environment);
  }
  writeFileSync(path, stringify({ ...config, ...(threads ? { custodian: { threads } } : {}) }), {
    mode: 0o600,
  });
  return { ...home, faulty };
}

/** The same slot again, on a token of its own. */
async function addMate(home: BenchHome, config: YamlConfig, pairedKey: string): Promise<void> {
  const [main] = config.slots;
  if (!main) throw new TypeError('The configuration has no slot.');
  using soPin = secretFile(join(home.home, 'secrets', 'so.pin'));
  using userPin = secretFile(home.pinFile);
  const environment = { SOFTHSM2_CONF: home.softhsmConf };
  await createToken({ module: home.module, label: mateLabel, soPin, userPin }, environment);
  config.slots.push({
    ...main,
    id: 'mate',
    settings: { ...main.settings, tokenLabel: mateLabel, environment: { ...main.settings.environment } },
  });
  config.groups = [{ id: 'pair', members: [{ slot: 'main' }, { slot: 'mate' }] }];
  const policy = everythingAllowed('pair', { keys: [pairedKey] });
  writeFileSync(join(home.home, 'policies', 'pair.json'), JSON.stringify(policy), { mode: 0o600 });
}

const mateLabel = 'keyslot-mate';

interface YamlConfig {
  groups?: readonly { readonly id: string; readonly members: readonly { readonly slot: string }[] }[];
  readonly slots: {
    readonly id: string;
    canary?: 'off';
    readonly settings: {
      module: string;
      tokenLabel: string;
      sessions?: number;
      environment: Record<string, string>;
    };
  }[];
}

/** A running appliance on such a folder: gateway, custodian and supervisor, as anybody would run them. */
export class House {
  readonly home: FaultyHome;
  readonly appliance: Appliance;
  readonly #running: AsyncDisposableStack;
  readonly #ending = new AbortController();

  static async start(stack: AsyncDisposableStack, options: HouseOptions = {}): Promise<House> {
    return House.on(await prepareFaultyHome(stack, options), stack);
  }

  static async on(home: FaultyHome, stack: AsyncDisposableStack): Promise<House> {
    const running = stack.use(new AsyncDisposableStack());
    return new House(home, await startAppliance(home, running), running);
  }

  private constructor(home: FaultyHome, appliance: Appliance, running: AsyncDisposableStack) {
    this.home = home;
    this.appliance = appliance;
    this.#running = running;
  }

  get faulty(): Faulty {
    return this.home.faulty;
  }

  get auditFolder(): string {
    return join(this.home.home, 'state', 'audit');
  }

  get tls(): { readonly cert: string; readonly key: string; readonly ca: string } {
    const read = (name: string) => readFileSync(join(this.home.home, 'tls', name), 'utf8');
    return { cert: read('developer.crt'), key: read('developer.key'), ca: read('ca.crt') };
  }

  /** Aborted when the house ends, which waits for nobody. */
  get ending(): AbortSignal {
    return this.#ending.signal;
  }

  /** With the repetitions that the library makes unless it is told otherwise. */
  client(options: { retries?: number } = {}): KeyslotClient {
    const { cert, key, ca } = this.tls;
    const fetch = this.#running.use(mtlsFetch({ certificate: cert, key, ca, connections: 128 }));
    this.#running.defer(() => this.#ending.abort());
    return createKeyslotClient({ url: this.appliance.url, fetch, ...options });
  }

  /** The public key of the audit log, which is made soon after the first start. */
  async auditKey(client: KeyslotClient): Promise<string> {
    for (const until_ms = performance.now() + patience_ms; performance.now() < until_ms; await sleep(20)) {
      const { publicKey } = await client.audit.status();
      if (publicKey) return publicKey;
    }
    throw new Error('The audit log has no key.');
  }

  /** The custodian that runs now; waits for one that is being started in place of `other`. */
  async custodian(other?: number): Promise<number> {
    for (const until_ms = performance.now() + patience_ms; performance.now() < until_ms; await sleep(2)) {
      const pid = childOf(this.appliance.pid, 'custodian-process');
      if (pid !== undefined && pid !== other) return pid;
    }
    throw new Error('No custodian came back.');
  }

  /** In order; what it wrote is whole then. */
  async stop(): Promise<void> {
    await this.#running.disposeAsync();
  }
}

const patience_ms = 30_000;

/** Runs `keyslot serve` on a home that it refuses, and says with which code it ended; nothing when it serves. */
export async function startRefused(home: FaultyHome, stack: AsyncDisposableStack): Promise<string> {
  await using starting = stack.use(new AsyncDisposableStack());
  try {
    await startAppliance(home, starting);
  } catch (thrown) {
    return /"code":\s*"([A-Z_]+)"/.exec(String(thrown))?.[1] ?? String(thrown);
  }
  return '';
}
