import type { Handle } from 'pkcs11js';
import { CkrError } from './cryptoki.ts';

/** How fast a token works, and how many sessions are worth having. */
export interface Speed {
  readonly operation: 'sign' | 'open';
  readonly calls: number;
  readonly p50_ms: number;
  readonly p99_ms: number;
  readonly levels: readonly { readonly sessions: number; readonly perSecond: number }[];
  /** The number of sessions beyond which nothing is gained. */
  readonly usefulSessions: number;
  /** What kept it from trying more: nothing was gained, the device had no more, or the bound was reached. */
  readonly endedBy: 'no-gain' | 'device' | 'bound';
}

export interface Work {
  readonly operation: Speed['operation'];
  open(): Handle;
  close(session: Handle): void;
  once(session: Handle): Promise<Buffer>;
  /** Throws when the answer of one call is wrong; its time is not counted. */
  check(answer: Buffer): Promise<void>;
  /** Throws when the examination was called off. */
  goOn(): void;
}

/** One call after the other first, then 1, 2, 4, … sessions at once until that is not faster any more. */
export async function measure(work: Work, sessions_max: number): Promise<Speed> {
  const times_ms = await oneByOne(work);
  const p50_ms = quantile(times_ms, 0.5);
  const window_ms = Math.min(Math.max(window_ms_min, 10 * p50_ms), window_ms_max);
  const levels: { sessions: number; perSecond: number }[] = [];
  let endedBy: Speed['endedBy'] = 'bound';
  for (let sessions = 1; sessions <= sessions_max; sessions *= 2) {
    const perSecond = await atOnce(work, sessions, window_ms);
    if (perSecond === undefined) {
      endedBy = 'device';
      break;
    }
    const before = best(levels)?.perSecond ?? 0;
    levels.push({ sessions, perSecond: Math.round(perSecond) });
    if (perSecond < before * gain_min) {
      endedBy = 'no-gain';
      break;
    }
  }
  return {
    operation: work.operation,
    calls: times_ms.length,
    p50_ms: rounded(p50_ms),
    p99_ms: rounded(quantile(times_ms, 0.99)),
    levels,
    usefulSessions: useful(levels),
    endedBy,
  };
}

async function oneByOne(work: Work): Promise<readonly number[]> {
  const session = work.open();
  try {
    const times_ms: number[] = [];
    const started = performance.now();
    while (times_ms.length < calls_max && performance.now() - started < latency_ms_max) {
      work.goOn();
      const before = performance.now();
      const answer = await work.once(session);
      times_ms.push(performance.now() - before);
      await work.check(answer);
    }
    return times_ms;
  } finally {
    work.close(session);
  }
}

/** Calls a second, or nothing when the device does not give that many sessions. */
async function atOnce(work: Work, count: number, window_ms: number): Promise<number | undefined> {
  const sessions: Handle[] = [];
  try {
    for (let at = 0; at < count; at += 1) sessions.push(work.open());
    const started = performance.now();
    const loop = async (session: Handle): Promise<number> => {
      let done = 0;
      while (performance.now() - started < window_ms) {
        work.goOn();
        await work.once(session);
        done += 1;
      }
      return done;
    };
    // Every loop ends before a session is closed, also when another one failed.
    const ended = await Promise.allSettled(sessions.map(loop));
    const elapsed_s = (performance.now() - started) / 1_000;
    const failed = ended.find(each => each.status === 'rejected');
    if (failed) throw failed.reason;
    return ended.reduce((sum, each) => sum + (each.status === 'fulfilled' ? each.value : 0), 0) / elapsed_s;
  } catch (thrown) {
    if (count > 1 && thrown instanceof CkrError) return undefined;
    throw thrown;
  } finally {
    for (const session of sessions) work.close(session);
  }
}

const best = (levels: Speed['levels']) => levels.toSorted((a, b) => b.perSecond - a.perSecond)[0];

/** The fewest sessions that come within a tenth of the fastest. */
function useful(levels: Speed['levels']): number {
  const fastest = best(levels)?.perSecond ?? 0;
  return levels.find(({ perSecond }) => perSecond * gain_min >= fastest)?.sessions ?? 1;
}

function quantile(values: readonly number[], share: number): number {
  const sorted = values.toSorted((a, b) => a - b);
  return sorted[Math.min(sorted.length - 1, Math.floor(share * sorted.length))] ?? 0;
}

const rounded = (value_ms: number): number => Math.round(value_ms * 1_000) / 1_000;

const calls_max = 200;
const latency_ms_max = 10_000;
const window_ms_min = 200;
const window_ms_max = 2_000;
const gain_min = 1.1;
