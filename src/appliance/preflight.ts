import { readFile } from 'node:fs/promises';
import { connect } from 'node:net';
import { z } from 'zod';
import { type CloudHsmCluster, CloudHsmDirectory } from '../engines/pkcs11/cloudhsm.ts';
import { isKeyslotError } from '../foundation/errors.ts';
import type { Log } from '../foundation/log.ts';

/**
 * What is asked about an AWS CloudHSM cluster before it is relied on, and now and then afterwards. Nothing of it is
 * on the way of a signature. What cannot be asked is `unknown`, which is not `fail`: AWS that does not answer says
 * nothing about the HSMs.
 */
export interface Preflight {
  readonly cluster: string;
  readonly asked_at: string;
  /** The worst of its checks; `unknown` counts for more than `ok` and for less than `warn`. */
  readonly outcome: Outcome;
  readonly checks: readonly Check[];
}

export type Outcome = 'ok' | 'unknown' | 'warn' | 'fail';

export interface Check {
  readonly name: CheckName;
  readonly outcome: Outcome;
  readonly detail: string;
  /** What to do about it, unless it is ok. */
  readonly remedy?: string;
}

export type CheckName = 'cluster' | 'hsms' | 'zones' | 'mode' | 'network' | 'library' | 'backup';

export interface PreflightOptions {
  readonly cluster: string;
  /** The mode of the slot that uses it. */
  readonly mode: 'native' | 'wrapped';
  readonly region?: string | undefined;
  readonly endpoint?: string | undefined;
  /** The configuration of the library: default where its installer puts it. */
  readonly libraryConfig?: string | undefined;
  readonly ports?: readonly number[];
  readonly timeout_ms?: number;
  readonly now?: () => number;
}

/** Asks AWS and the network now. It does not throw for what it finds: that is in the checks. */
export async function preflight(options: PreflightOptions): Promise<Preflight> {
  const { cluster: id, region, endpoint, timeout_ms = ask_ms, now = Date.now } = options;
  using directory = new CloudHsmDirectory({ region, endpoint, timeout_ms });
  const cluster = await asked(() => directory.cluster(id));
  const backup = await asked(() => directory.newestBackup(id));
  const checks =
    'answer' in cluster
      ? [
          stateCheck(cluster.answer),
          hsmsCheck(cluster.answer),
          zonesCheck(cluster.answer),
          modeCheck(cluster.answer, options.mode),
          await networkCheck(cluster.answer, options.ports ?? ports),
          await libraryCheck(cluster.answer, options.libraryConfig ?? libraryConfig),
        ]
      : unasked(cluster, ['hsms', 'zones', 'mode', 'network', 'library']);
  const all = [
    ...checks,
    'answer' in backup ? backupCheck(backup.answer, now()) : unknown('backup', backup.why),
  ];
  return { cluster: id, asked_at: new Date(now()).toISOString(), outcome: worst(all), checks: all };
}

/**
 * The preflight for whoever asks for health: the last answer, at most `cache_ms` old, and until there is one
 * `unknown`. Asking never waits for AWS, and at most one question is under way.
 */
export class PreflightHealth {
  readonly #options: PreflightOptions;
  readonly #log: Log;
  readonly #cache_ms: number;
  readonly #now: () => number;
  #last: Preflight | undefined;
  #asked_ms = Number.NEGATIVE_INFINITY;
  #asking: Promise<void> | undefined;

  constructor(options: PreflightOptions, log: Log, cache_ms = cache_ms_min) {
    this.#options = options;
    this.#log = log;
    this.#cache_ms = Math.max(cache_ms, cache_ms_min);
    this.#now = options.now ?? Date.now;
  }

  /** What is known now; when it is old, AWS is asked for the next time. */
  current(): Preflight {
    if (this.#now() - this.#asked_ms >= this.#cache_ms) this.#ask();
    return this.#last ?? neverAsked(this.#options.cluster, this.#now());
  }

  /** Resolves when nothing is being asked. */
  async settled(): Promise<void> {
    await this.#asking;
  }

  #ask(): void {
    if (this.#asking) return;
    this.#asked_ms = this.#now();
    this.#asking = preflight(this.#options)
      .then(
        found => {
          this.#last = found;
        },
        (err: unknown) => {
          this.#log.error({ err }, 'the preflight of CloudHSM broke; it says nothing of the cluster');
          this.#last = neverAsked(this.#options.cluster, this.#now());
        },
      )
      .finally(() => {
        this.#asking = undefined;
      });
  }
}

const neverAsked = (cluster: string, now_ms: number): Preflight => ({
  cluster,
  asked_at: new Date(now_ms).toISOString(),
  outcome: 'unknown',
  checks: [],
});

type Asked<T> = { readonly answer: T } | { readonly why: string; readonly missing: boolean };

async function asked<T>(question: () => Promise<T>): Promise<Asked<T>> {
  try {
    return { answer: await question() };
  } catch (thrown) {
    if (!isKeyslotError(thrown)) throw thrown;
    return { why: thrown.message, missing: thrown.code === 'TOKEN_NOT_FOUND' };
  }
}

function unasked(
  { why, missing }: { readonly why: string; readonly missing: boolean },
  others: readonly CheckName[],
): readonly Check[] {
  const first: Check = missing
    ? fail('cluster', why, 'Check the id of the cluster, the region and the account.')
    : unknown('cluster', why);
  return [first, ...others.map(name => unknown(name, 'AWS did not describe the cluster.'))];
}

/** DEGRADED with an HSM that is ACTIVE still signs. */
function stateCheck(cluster: CloudHsmCluster): Check {
  const detail = `It is ${cluster.state}.`;
  const remedy = 'Look at its state message in the AWS console.';
  if (cluster.state === 'ACTIVE') return ok('cluster', detail);
  const signs = cluster.state === 'DEGRADED' && active(cluster).length > 0;
  return signs ? warn('cluster', detail, remedy) : fail('cluster', detail, remedy);
}

function hsmsCheck(cluster: CloudHsmCluster): Check {
  const count = active(cluster).length;
  const detail = `${count} of ${cluster.hsms.length} HSMs are ACTIVE.`;
  if (count >= 3) return ok('hsms', detail);
  return count === 2
    ? warn('hsms', detail, 'Add a third: with two, the loss of one leaves new keys on a single HSM.')
    : fail('hsms', detail, 'Add HSMs: a new key is used only when at least two hold it.');
}

function zonesCheck(cluster: CloudHsmCluster): Check {
  const zones = [
    ...new Set(active(cluster).flatMap(({ zone }) => (zone === undefined ? [] : [zone]))),
  ].sort();
  const detail = `ACTIVE HSMs are in ${zones.join(', ') || 'no zone'}.`;
  return zones.length >= 2
    ? ok('zones', detail)
    : fail('zones', detail, 'Put HSMs into at least two availability zones.');
}

/** Ed25519 is on one type of HSM only, and not in FIPS mode; AES-GCM is everywhere. */
function modeCheck({ hsmType, mode }: CloudHsmCluster, wanted: 'native' | 'wrapped'): Check {
  const detail = `HSM type ${hsmType ?? 'not said'}, cluster mode ${mode ?? 'not said'}; the slot is ${wanted}.`;
  if (wanted === 'wrapped') return ok('mode', detail);
  const remedy =
    'mode: native takes hsm2m.medium in a NON_FIPS cluster, which is chosen when the cluster is made; otherwise set mode: wrapped.';
  if ((hsmType !== undefined && hsmType !== 'hsm2m.medium') || (mode !== undefined && mode !== 'NON_FIPS')) {
    return fail('mode', detail, remedy);
  }
  return hsmType === undefined || mode === undefined ? unknown('mode', detail, remedy) : ok('mode', detail);
}

/** An HSM is reachable when it accepts a connection on one of its ports; it is not talked to. */
async function networkCheck(cluster: CloudHsmCluster, knocked: readonly number[]): Promise<Check> {
  const addresses = addressesOf(cluster);
  if (addresses.length === 0) return unknown('network', 'AWS names no address of an ACTIVE HSM.');
  const answers = await Promise.all(
    addresses.map(async address => ({
      address,
      open: (await Promise.all(knocked.map(port => accepts(address, port)))).some(Boolean),
    })),
  );
  const closed = answers.filter(({ open }) => !open).map(({ address }) => address);
  const range = `TCP ${knocked[0]} to ${knocked.at(-1)}`;
  if (closed.length === 0) return ok('network', `${addresses.join(', ')} accept connections on ${range}.`);
  const detail = `Nothing accepts a connection at ${closed.join(', ')} on ${range}.`;
  const remedy = "Let this host through: put it into the cluster's security group, and check its routes.";
  return closed.length === addresses.length
    ? fail('network', detail, remedy)
    : warn('network', detail, remedy);
}

function accepts(host: string, port: number): Promise<boolean> {
  const { promise, resolve } = Promise.withResolvers<boolean>();
  const socket = connect({ host, port });
  socket.setTimeout(knock_ms, () => resolve(false));
  socket.once('connect', () => resolve(true));
  socket.once('error', () => resolve(false));
  return promise.finally(() => socket.destroy());
}

/** The addresses that the library connects to against those that the cluster has now. */
async function libraryCheck(cluster: CloudHsmCluster, path: string): Promise<Check> {
  const remedy = 'Run configure-pkcs11 with the addresses of the cluster, and restart Keyslot.';
  let text: string;
  try {
    text = await readFile(path, 'utf8');
  } catch (thrown) {
    if (!(thrown instanceof Error) || !('code' in thrown)) throw thrown;
    return unknown(
      'library',
      `${path} cannot be read (${String(thrown.code)}).`,
      'Name it with --library-config.',
    );
  }
  const configured = hostsOf(text);
  if (!configured) return unknown('library', `${path} is not in a form that is known.`, remedy);
  const addresses = addressesOf(cluster);
  const missing = addresses.filter(address => !configured.includes(address));
  const extra = configured.filter(host => !cluster.hsms.some(({ address }) => address === host));
  if (missing.length === 0 && extra.length === 0) {
    return ok('library', `It is configured with the addresses of the cluster.`);
  }
  const detail = [
    ...(missing.length > 0 ? [`not configured: ${missing.join(', ')}`] : []),
    ...(extra.length > 0 ? [`configured, and not of this cluster: ${extra.join(', ')}`] : []),
  ].join('; ');
  return missing.length === addresses.length
    ? fail('library', detail, remedy)
    : warn('library', detail, remedy);
}

const libraryForm = z.looseObject({
  clusters: z.array(
    z.looseObject({
      cluster: z.looseObject({
        servers: z.array(z.looseObject({ hostname: z.string(), enable: z.boolean().optional() })),
      }),
    }),
  ),
});

function hostsOf(text: string): readonly string[] | undefined {
  try {
    const parsed = libraryForm.safeParse(JSON.parse(text));
    if (!parsed.success) return undefined;
    const servers = parsed.data.clusters.flatMap(({ cluster }) => cluster.servers);
    return servers.filter(({ enable }) => enable !== false).map(({ hostname }) => hostname);
  } catch (error) {
    if (error instanceof SyntaxError) return undefined;
    throw error;
  }
}

function backupCheck(newest: Date | undefined, now_ms: number): Check {
  const remedy =
    'CloudHSM makes a backup at least once a day: look at the backups and their retention policy.';
  if (!newest) return fail('backup', 'There is no backup that is READY.', remedy);
  const age_h = Math.floor((now_ms - newest.getTime()) / 3_600_000);
  const detail = `The newest backup that is READY is ${age_h} h old.`;
  return age_h < backupAge_h ? ok('backup', detail) : warn('backup', detail, remedy);
}

const active = ({ hsms }: CloudHsmCluster) => hsms.filter(({ state }) => state === 'ACTIVE');

const addressesOf = (cluster: CloudHsmCluster): readonly string[] =>
  active(cluster).flatMap(({ address }) => (address === undefined ? [] : [address]));

const ok = (name: CheckName, detail: string): Check => ({ name, outcome: 'ok', detail });
const warn = (name: CheckName, detail: string, remedy: string): Check => ({
  name,
  outcome: 'warn',
  detail,
  remedy,
});
const fail = (name: CheckName, detail: string, remedy: string): Check => ({
  name,
  outcome: 'fail',
  detail,
  remedy,
});
const unknown = (
  name: CheckName,
  detail: string,
  remedy = 'Check credentials, region and network; the cluster may well be in order.',
): Check => ({ name, outcome: 'unknown', detail, remedy });

const severity: readonly Outcome[] = ['ok', 'unknown', 'warn', 'fail'];

const worst = (checks: readonly Check[]): Outcome =>
  severity[Math.max(...checks.map(({ outcome }) => severity.indexOf(outcome)))] ?? 'unknown';

const ports = [2223, 2224, 2225] as const;
const libraryConfig = '/opt/cloudhsm/etc/cloudhsm-pkcs11.cfg';
const ask_ms = 10_000;
const knock_ms = 3_000;
const cache_ms_min = 60_000;
const backupAge_h = 48;
