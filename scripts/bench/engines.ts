import { randomBytes } from 'node:crypto';
import { table } from '../../src/cli/output.ts';
import {
  exports as exportsKeys,
  generates,
  imports,
  type KeyId,
  keyId,
  Secret,
  type Session,
} from '../../src/index.ts';
import { type EngineBench, engineBenches } from './engine-benches.ts';

/**
 * `npm run bench -- engines`: what saving, loading and signing cost in each custody, in this process, without
 * HTTP and without the verification before release. KMS is a server on this machine that does real
 * cryptography: a real one adds its network, once for each request that is counted here.
 */
export async function benchEngines(
  flags: { readonly json: boolean; readonly quick: boolean },
  stack: AsyncDisposableStack,
  progress: (text: string) => void,
): Promise<void> {
  const results: EngineResult[] = [];
  for (const bench of await engineBenches(stack)) {
    progress(bench.name);
    results.push(await measured(bench, flags.quick));
  }
  progress('');
  console.log(text(results));
  if (flags.json) console.log(JSON.stringify({ engines: results }));
}

export interface EngineResult {
  readonly name: string;
  readonly custody: string;
  readonly open_ms: number;
  /** Until a new key is durable and has proven itself. */
  readonly save_ms: number;
  /** Looking a key up in a session that has not met it: until it can sign. */
  readonly load_ms: number;
  /** Giving out the seed of a key that was loaded; absent where none leaves. */
  readonly export_ms?: number;
  readonly sign_ms: number;
  /** With 32 signatures waiting at any time. */
  readonly signatures_per_s: number;
  /** Requests that one signature sends to KMS. */
  readonly requestsASignature?: number;
  /** What the page of the wallet program promises for its backend of this name. */
  readonly promised?: string;
}

async function measured(bench: EngineBench, quick: boolean): Promise<EngineResult> {
  const [keys, signatures, load_ms] = quick ? [3, 20, 200] : [20, 300, 3_000];
  await using engine = bench.make();
  const [slot] = await engine.slots();
  if (!slot) throw new Error(`${bench.name} has no slot.`);
  const open = async () => {
    using pin = Secret.fromText(bench.pin);
    return await slot.open(pin);
  };
  const { custody } = await slot.describe();
  await (await open())[Symbol.asyncDispose](); // the first opening makes the slot, which is no opening
  const started = performance.now();
  let session = await open();
  const open_ms = performance.now() - started;

  const ids = Array.from({ length: keys }, (_, at) => keyId(`bench-${at}`));
  const save_ms = await median(ids, id => save(session, id));
  await session[Symbol.asyncDispose]();
  session = await open();
  const loading = await median(ids, id => session.signer(id));
  const export_ms = exportsKeys(session) ? await exporting(session, ids) : undefined;

  const signer = await session.signer(ids[0] ?? keyId('bench-0'));
  const message = randomBytes(250);
  await signer.sign(message);
  const before = bench.requests?.() ?? 0;
  const sign_ms = await median(Array.from({ length: signatures }), () => signer.sign(message));
  const requests = bench.requests ? (bench.requests() - before) / signatures : undefined;
  const signatures_per_s = await throughput(() => signer.sign(message), load_ms);
  await session[Symbol.asyncDispose]();
  return {
    name: bench.name,
    custody,
    open_ms,
    save_ms,
    load_ms: loading,
    sign_ms,
    signatures_per_s,
    ...(export_ms === undefined ? {} : { export_ms }),
    ...(requests === undefined ? {} : { requestsASignature: requests }),
    ...(bench.promised === undefined ? {} : { promised: bench.promised }),
  };
}

/** As the custody makes keys: it takes a seed, or, where none goes in, makes one itself. */
async function save(session: Session, id: KeyId): Promise<void> {
  if (imports(session)) {
    using seed = Secret.fromBytes(randomBytes(32), { wipe: true });
    await session.import(id, seed);
  } else if (generates(session)) await session.generate(id);
}

async function exporting(session: Session, ids: readonly KeyId[]): Promise<number> {
  return median(ids, async id => {
    if (!exportsKeys(session)) throw new Error('The session does not export.');
    using _seed = await session.export(id);
  });
}

async function median<T>(items: readonly T[], work: (item: T) => Promise<unknown>): Promise<number> {
  const times: number[] = [];
  for (const item of items) {
    const started = performance.now();
    await work(item);
    times.push(performance.now() - started);
  }
  return times.sort((a, b) => a - b)[Math.floor(times.length / 2)] ?? 0;
}

async function throughput(work: () => Promise<unknown>, for_ms: number): Promise<number> {
  const started = performance.now();
  let done = 0;
  const lane = async () => {
    while (performance.now() - started < for_ms) {
      await work();
      done += 1;
    }
  };
  await Promise.all(Array.from({ length: 32 }, lane));
  return done / ((performance.now() - started) / 1000);
}

function text(results: readonly EngineResult[]): string {
  const reference = results.find(each => each.name === 'memory')?.signatures_per_s ?? Number.NaN;
  const rows = results.map(each => [
    each.name,
    each.custody,
    ms(each.open_ms),
    ms(each.save_ms),
    ms(each.load_ms),
    each.export_ms === undefined ? '–' : ms(each.export_ms),
    ms(each.sign_ms),
    Math.round(each.signatures_per_s).toString(),
    (each.signatures_per_s / reference).toFixed(3),
    each.requestsASignature?.toFixed(0) ?? '–',
    each.promised ?? '–',
  ]);
  const headings = ['ENGINE', 'CUSTODY', 'OPEN ms', 'SAVE ms', 'LOAD ms', 'EXPORT ms', 'SIGN ms'];
  return table([...headings, 'SIGN/s (32)', 'TO MEMORY', 'KMS REQUESTS', 'PROMISED save/load ms'], rows);
}

const ms = (value: number): string => value.toFixed(value < 1 ? 3 : value < 100 ? 1 : 0);
