import { setTimeout as sleep } from 'node:timers/promises';
import { type Answer, Exchange, type ExchangeOptions } from '../bench/exchange.ts';
import type { Work } from '../bench/work.ts';

export interface Newcomers {
  readonly came: number;
  readonly served: number;
  /** From the first byte of TCP to the signature. */
  readonly slowest_ms: number;
}

/** A client with a new connection twice a second, which asks for a signature, until the signal says stop. */
export async function newcomers(
  { url, tls }: Pick<ExchangeOptions, 'url' | 'tls'>,
  work: readonly Work[],
  signal: AbortSignal,
): Promise<Newcomers> {
  let [came, served, slowest_ms] = [0, 0, 0];
  while (!signal.aborted) {
    const began_ms = performance.now();
    const request = work[came % work.length]?.request ?? Buffer.of();
    came += 1;
    if (await isServed({ url, tls }, request)) served += 1;
    slowest_ms = Math.max(slowest_ms, performance.now() - began_ms);
    await sleep(pause_ms);
  }
  return { came, served, slowest_ms };
}

async function isServed(at: Pick<ExchangeOptions, 'url' | 'tls'>, request: Buffer): Promise<boolean> {
  const { promise, resolve } = Promise.withResolvers<Answer | undefined>();
  const lost = () => resolve(undefined);
  const late = setTimeout(lost, patience_ms);
  try {
    const exchange = await Exchange.open({ ...at, whenAnswered: resolve, whenLost: lost });
    exchange.send(request);
    const answer = await promise;
    exchange.close();
    return answer?.status === 200;
  } catch (thrown) {
    if (thrown instanceof Error && 'code' in thrown) return false; // refused, or reset in the handshake
    throw thrown;
  } finally {
    clearTimeout(late);
  }
}

const pause_ms = 500;
const patience_ms = 10_000;
