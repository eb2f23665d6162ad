import { readFileSync } from 'node:fs';
import { availableParallelism } from 'node:os';
import { join } from 'node:path';
import { type Appliance, type BenchHome, benchKey, prepareHome, startAppliance } from './appliance.ts';
import type { Flags } from './flags.ts';
import { Helper } from './helper.ts';
import type { LoadAnswer, LoadQuestion } from './load.ts';
import { childrenOf, cpu_s, machineCpu_s, type Observed, residentMemory } from './processes.ts';
import type { RawAnswer, RawQuestion } from './raw-limit.ts';
import { unsignedTransfers } from './transfers.ts';
import { type Mode, transferMessage_at } from './work.ts';

/** One row: a mode at a number of connections, against the raw limit of the same run. */
export interface Result {
  readonly mode: Mode;
  readonly connections: number;
  readonly perSecond: number;
  /** To the raw limit of the run. */
  readonly ratio: number;
  /**
   * The same by processor time: a raw signature's against what gateway, custodian and load spend on one of
   * theirs. With every core busy on an otherwise idle machine it is the ratio; on a shared one, where many
   * threads get more of the cores than the few of the raw loop, it is the one to believe.
   */
  readonly ratioByCpu: number;
  readonly p50_ms: number;
  readonly p99_ms: number;
  readonly refused: number;
  readonly verified: number;
  /** Processor time a signature. On a shared machine it says more than the rate does. */
  readonly cpu_us: { readonly gateway: number; readonly custodian: number; readonly load: number };
  /** The share of all processors that went to nothing of ours meanwhile: with much of it, measure again. */
  readonly elsewhere: number;
}

export interface Memory {
  readonly signatures: number;
  readonly bytesPerSignature: number;
  readonly gateway: number;
  readonly custodian: number;
  /** Where it began and ended. */
  readonly resident_bytes: { readonly before: Observed; readonly after: Observed };
}

/** The same load on an appliance with policies and audit log, and on one without, in turn: medians. */
export interface Cost {
  readonly connections: number;
  readonly perSecond: { readonly without: number; readonly with: number };
  readonly p50_ms: { readonly without: number; readonly with: number };
  /** Of the throughputs of each pair of neighbours in time, the median. */
  readonly ratio: number;
  /** The same by processor time of gateway and custodian. */
  readonly ratioByCpu: number;
}

export interface Report {
  /** Signatures per second. */
  readonly rawLimit: number;
  readonly rawLimits: readonly number[];
  /** Processor time of one raw signature. */
  readonly rawCpu_us: number;
  readonly ceiling: { readonly perSecond: number; readonly ratio: number; readonly ratioByCpu: number };
  readonly results: readonly Result[];
  readonly memory?: Memory;
  readonly costs?: readonly Cost[];
}

/**
 * Measures the raw limit before and after each row, because other work on the machine comes and goes: the raw
 * limit of the run is their median. Whatever is started goes onto the stack.
 */
export async function measure(
  flags: Flags,
  stack: AsyncDisposableStack,
  progress: (text: string) => void,
): Promise<Report> {
  progress('preparing a token and an appliance');
  const bench = await Bench.start(stack);
  progress('warming up');
  await bench.warmUp(flags);
  progress('the ceiling');
  const ceiling = await bench.raw(flags.raw_s, true);
  const measured: Measured[] = [];
  progress('the raw limit');
  const raw = [await bench.raw(flags.raw_s, false)];
  for (const [mode, connections] of rowsOf(flags)) {
    progress(`${mode}, ${connections} connections`);
    measured.push(await bench.load(mode, connections, flags));
    progress('the raw limit again');
    raw.push(await bench.raw(flags.raw_s, false));
  }
  progress(`memory over ${flags.signatures} signatures`);
  const memory = flags.memory ? await bench.memory(flags) : undefined;
  const costs = flags.cost ? await measureCosts(bench, flags, stack, progress) : undefined;
  const rawLimits = raw.map(({ perSecond }) => perSecond);
  const rawLimit = median(rawLimits);
  const rawCpu_us = median(raw.map(({ cpu_us }) => cpu_us));
  return {
    rawLimit,
    rawLimits,
    rawCpu_us,
    ceiling: {
      perSecond: ceiling.perSecond,
      ratio: ceiling.perSecond / rawLimit,
      ratioByCpu: rawCpu_us / ceiling.cpu_us,
    },
    results: measured.map(row => {
      const { gateway, custodian, load } = row.cpu_us;
      return {
        ...row,
        ratio: row.perSecond / rawLimit,
        ratioByCpu: rawCpu_us / (gateway + custodian + load),
      };
    }),
    ...(memory ? { memory } : {}),
    ...(costs ? { costs } : {}),
  };
}

/** What policies, the audit log and its fsyncs cost: in pairs, because other work on the machine comes and goes. */
async function measureCosts(
  whole: Bench,
  flags: Flags,
  stack: AsyncDisposableStack,
  progress: (text: string) => void,
): Promise<readonly Cost[]> {
  progress('an appliance without policies and audit log');
  const bare = await Bench.start(stack, { bare: true });
  await bare.warmUp(flags);
  const costs: Cost[] = [];
  for (const connections of [1, 64]) {
    const pairs: { without: Measured; with: Measured }[] = [];
    for (let round = 0; round < flags.costRounds; round += 1) {
      progress(`with and without, ${connections} connections, ${round + 1} of ${flags.costRounds}`);
      pairs.push({
        without: await bare.load('single', connections, flags),
        with: await whole.load('single', connections, flags),
      });
    }
    const of = (side: 'with' | 'without', what: 'perSecond' | 'p50_ms') =>
      median(pairs.map(pair => pair[side][what]));
    const cpu = ({ cpu_us }: Measured) => cpu_us.gateway + cpu_us.custodian;
    costs.push({
      connections,
      perSecond: { without: of('without', 'perSecond'), with: of('with', 'perSecond') },
      p50_ms: { without: of('without', 'p50_ms'), with: of('with', 'p50_ms') },
      ratio: median(pairs.map(pair => pair.with.perSecond / pair.without.perSecond)),
      ratioByCpu: median(pairs.map(pair => cpu(pair.without) / cpu(pair.with))),
    });
  }
  return costs;
}

const rowsOf = (flags: Flags): (readonly [Mode, number])[] =>
  flags.modes.flatMap(mode => flags.connections.map(connections => [mode, connections] as const));

type Measured = Omit<Result, 'ratio' | 'ratioByCpu'>;

/** Everything that takes part, running. */
class Bench {
  readonly #home: BenchHome;
  readonly #appliance: Appliance;
  readonly #observed: Observed;
  readonly #transfers: readonly Buffer[];
  readonly #rawLimit: Helper<RawQuestion, RawAnswer>;
  readonly #load: Helper<LoadQuestion, LoadAnswer>;

  private constructor(home: BenchHome, appliance: Appliance, stack: AsyncDisposableStack) {
    this.#home = home;
    this.#appliance = appliance;
    this.#observed = childrenOf(appliance.pid);
    this.#transfers = unsignedTransfers(appliance.publicKey, transfers);
    this.#rawLimit = stack.use(new Helper('raw-limit.ts', { SOFTHSM2_CONF: home.softhsmConf }));
    this.#load = stack.use(new Helper('load.ts'));
  }

  static async start(stack: AsyncDisposableStack, options: { bare?: boolean } = {}): Promise<Bench> {
    const home = await prepareHome(stack);
    const bench = new Bench(home, await startAppliance(home, stack, options), stack);
    if (!options.bare) await bench.#openRawLimit();
    return bench;
  }

  raw(seconds: number, verify: boolean): Promise<RawAnswer> {
    return this.#rawLimit.ask({ measure: { seconds, verify } });
  }

  /** Until the code of both processes is compiled: the first row must not pay for it. */
  async warmUp({ warmUp_signatures }: Flags): Promise<void> {
    await this.#ask('single', memory_connections, bounded(warmUp_signatures));
  }

  async load(mode: Mode, connections: number, flags: Flags): Promise<Measured> {
    const before = this.#spent();
    const answer = await this.#ask(mode, connections, {
      warmUp_s: flags.warmUp_s,
      seconds_max: flags.seconds,
      signatures_max: Number.MAX_SAFE_INTEGER,
    });
    const after = this.#spent();
    const { signatures, signaturesAll, seconds, p50_ms, p99_ms, refused, verified } = answer;
    const each_us = (name: 'gateway' | 'custodian' | 'load') =>
      ((after[name] - before[name]) * 1e6) / signaturesAll;
    const cpu_us = { gateway: each_us('gateway'), custodian: each_us('custodian'), load: each_us('load') };
    const ours_s = ((cpu_us.gateway + cpu_us.custodian + cpu_us.load) * signaturesAll) / 1e6;
    const all_s = (after.wall_s - before.wall_s) * availableParallelism();
    const elsewhere = Math.max(0, after.machine - before.machine - ours_s) / all_s;
    const perSecond = signatures / seconds;
    return { mode, connections, perSecond, p50_ms, p99_ms, refused, verified, cpu_us, elsewhere };
  }

  /** Begins when code is compiled and pools are as large as they get: what grows after that grows for ever. */
  async memory(flags: Flags): Promise<Memory> {
    await this.#ask('single', memory_connections, bounded(Math.min(flags.signatures, 20_000)));
    const before = await residentMemory(this.#observed, flags.settle_ms);
    const { signatures } = await this.#ask('single', memory_connections, bounded(flags.signatures));
    const after = await residentMemory(this.#observed, flags.settle_ms);
    const gateway = (after.gateway - before.gateway) / signatures;
    const custodian = (after.custodian - before.custodian) / signatures;
    const resident_bytes = { before, after };
    return { signatures, bytesPerSignature: gateway + custodian, gateway, custodian, resident_bytes };
  }

  #ask(
    mode: Mode,
    connections: number,
    bounds: Pick<LoadQuestion, 'warmUp_s' | 'seconds_max' | 'signatures_max'>,
  ): Promise<LoadAnswer> {
    const { url, publicKey } = this.#appliance;
    const read = (name: string) => readFileSync(join(this.#home.home, 'tls', name), 'utf8');
    return this.#load.ask({
      url,
      tls: { cert: read('developer.crt'), key: read('developer.key'), ca: read('ca.crt') },
      mode,
      connections,
      key: benchKey,
      publicKey,
      transfers_base64: this.#transfers.map(transfer => transfer.toString('base64')),
      ...bounds,
    });
  }

  /** Processor time so far, of each part and of the machine. */
  #spent() {
    const { gateway, custodian } = this.#observed;
    return {
      gateway: cpu_s(gateway),
      custodian: cpu_s(custodian),
      load: cpu_s(this.#load.pid),
      machine: machineCpu_s(),
      wall_s: performance.now() / 1_000,
    };
  }

  async #openRawLimit(): Promise<void> {
    const [transfer = Buffer.of()] = this.#transfers;
    const { module, tokenLabel, pinFile } = this.#home;
    await this.#rawLimit.ask({
      open: {
        module,
        tokenLabel,
        pinFile,
        key: benchKey,
        publicKey: this.#appliance.publicKey,
        message_base64: transfer.subarray(transferMessage_at).toString('base64'),
      },
    });
  }
}

const transfers = 400; // four batches
const memory_connections = 64;

const bounded = (signatures_max: number) => ({ warmUp_s: 0, seconds_max: 1_800, signatures_max });

function median(numbers: readonly number[]): number {
  const sorted = [...numbers].sort((one, other) => one - other);
  const middle = sorted.length / 2;
  const [low = 0, high = low] = sorted.slice(Math.ceil(middle) - 1, Math.floor(middle) + 1);
  return (low + high) / 2;
}
