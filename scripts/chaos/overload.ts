import { setTimeout as sleep } from 'node:timers/promises';
import { Helper } from '../bench/helper.ts';
import { childrenOf, type Observed, residentMemory } from '../bench/processes.ts';
import { unsignedTransfers } from '../bench/transfers.ts';
import { atMost, type Chaos, exactly, type Figure, type Scenario, told } from './figure.ts';
import { House, key, tokenLabel } from './house.ts';
import type { OpenLoadAnswer, OpenLoadQuestion } from './overload-load.ts';

/**
 * A device that makes 80 signatures a second (twelve sessions, 150 ms each), first with 64 requests a second, then with
 * ten times as many, all of them sent without waiting for answers. What is accepted should take hardly longer, and
 * what is too much should be turned away rather than kept.
 */
export const overload: Scenario = {
  name: 'overload',
  what: 'ten times the load',
  async run({ short, stack, progress, note }: Chaos): Promise<readonly Figure[]> {
    const { base_s, over_s, warmUp_s } = short
      ? { base_s: 4, over_s: 6, warmUp_s: 1.5 }
      : { base_s: 20, over_s: 60, warmUp_s: 240 };
    const house = await House.start(stack, { sessions, threads: sessions });
    const { url, publicKey, pid } = house.appliance;
    const load = stack.use(new Helper<OpenLoadQuestion, OpenLoadAnswer>('../chaos/overload-load.ts'));
    const transfers_base64 = unsignedTransfers(publicKey, 400).map(each => each.toString('base64'));
    const ask = (times: number, warmUp_s: number, seconds: number) =>
      load.ask({
        url,
        tls: house.tls,
        key,
        transfers_base64,
        perSecond: base_perSecond * times,
        connections: base_connections * times,
        warmUp_s,
        seconds,
      });
    house.faulty.inject({ on: 'C_Sign', effect: 'latency', ms: latency_ms, token: tokenLabel });
    progress(`${base_perSecond} requests a second`);
    const base = await ask(1, Math.min(warmUp_s, 15), base_s);
    progress(`${base_perSecond * 10} requests a second`);
    const processes = childrenOf(pid);
    const overloading = ask(10, warmUp_s, over_s);
    const memory = watched(processes, overloading);
    const [over, { samples, after }] = await Promise.all([overloading, memory]);
    const late = samples.slice(Math.min(samples.length - 2, Math.ceil(warmUp_s)));
    const refused = Object.values(over.refused).reduce((sum, times) => sum + times, 0);
    const { '503': busy = 0 } = over.refused;
    if (over.unsent > 0) {
      note(
        `${over.unsent} of ${over.offered} requests were not sent: all ${base_connections * 10} connections waited for answers.`,
      );
    }
    return [
      exactly('overload_other_answers', 'answers that are neither a signature nor 503', refused - busy, 0),
      atMost(
        'overload_p99_ratio',
        'p99 of accepted requests, overload to base',
        over.acceptedP99_ms / base.acceptedP99_ms,
        2,
      ),
      short
        ? told(
            'overload_memory_MiB_per_min',
            'growth after the warm-up; a short run says nothing',
            growth(late),
          )
        : atMost(
            'overload_memory_MiB_per_min',
            'growth of gateway and custodian after two minutes',
            growth(samples.slice(settling_s)),
            10,
          ),
      told('overload_base_p50_ms', 'p50 of accepted requests at the base load', base.acceptedP50_ms),
      told('overload_base_p99_ms', 'p99 of accepted requests at the base load', base.acceptedP99_ms),
      told('overload_p50_ms', 'p50 of accepted requests under overload', over.acceptedP50_ms),
      told('overload_p99_ms', 'p99 of accepted requests under overload', over.acceptedP99_ms),
      told('overload_refused_p99_ms', 'p99 of the time until a request was turned away', over.refusedP99_ms),
      told(
        'overload_base_accepted_per_second',
        'signatures a second at the base load',
        base.acceptedPerSecond,
      ),
      told('overload_accepted_per_second', 'signatures a second under overload', over.acceptedPerSecond),
      told('overload_offered', 'requests under overload', over.offered),
      told('overload_refused', 'of these turned away with 503', busy),
      told('overload_unsent', 'of these not sent, because every connection waited', over.unsent),
      told('overload_gateway_MiB_before', 'resident memory after the warm-up', mebibytes(late[0]?.gateway)),
      told('overload_gateway_MiB_after', 'resident memory at the end', mebibytes(after.gateway)),
      told(
        'overload_custodian_MiB_before',
        'resident memory after the warm-up',
        mebibytes(late[0]?.custodian),
      ),
      told('overload_custodian_MiB_after', 'resident memory at the end', mebibytes(after.custodian)),
    ];
  },
};

/** How long resident memory grows under a new kind of load, until the collector has found its pace. */
const settling_s = 120;
const sessions = 12;
const latency_ms = 150;
const base_perSecond = 64;
const base_connections = 64;

interface Watched {
  /** One a second: the least of it, because what a collection has not yet freed is not a leak. */
  readonly samples: readonly Observed[];
  readonly after: Observed;
}

async function watched(processes: Observed, load: Promise<unknown>): Promise<Watched> {
  const samples: Observed[] = [];
  let running = true;
  const ended = load.finally(() => {
    running = false;
  });
  ended.catch(() => undefined); // told to whoever waits for the load
  while (running) samples.push(await residentMemory(processes, 1_000));
  await sleep(200);
  return { samples, after: await residentMemory(processes, 1_000) };
}

/**
 * From the least of the two thirds before to the least of the last third, both processes together, in MiB a minute. The
 * collector makes a sawtooth of resident memory, of which one rise says nothing; that its valleys rise does.
 */
function growth(samples: readonly Observed[]): number {
  const sums = samples.map(({ gateway, custodian }) => mebibytes(gateway + custodian));
  const third = Math.floor(sums.length / 3);
  const minutes = (third * 1.5) / 60;
  return (Math.min(...sums.slice(-third)) - Math.min(...sums.slice(0, -third))) / minutes;
}

const mebibytes = (bytes = Number.NaN): number => bytes / 1_048_576;
