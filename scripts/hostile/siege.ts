import { request } from 'node:https';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Appliance } from '../bench/appliance.ts';
import type { ExchangeOptions } from '../bench/exchange.ts';
import { Helper } from '../bench/helper.ts';
import { childrenOf, residentMemory } from '../bench/processes.ts';
import { unsignedTransfers } from '../bench/transfers.ts';
import { type Work, workOf } from '../bench/work.ts';
import type { OpenLoadAnswer, OpenLoadQuestion } from '../chaos/overload-load.ts';
import type { AttackQuestion } from './attacker.ts';
import type { Attack } from './attacks.ts';
import type { Tally } from './crowd.ts';
import { type Newcomers, newcomers } from './newcomers.ts';

/** What an attack came to, and what it did to everybody else. */
export interface Row {
  readonly attack: Attack;
  readonly tally: Tally;
  readonly before: OpenLoadAnswer;
  readonly during: OpenLoadAnswer;
  /** p99 of the others' signatures: during the attack to before it. */
  readonly ratio: number;
  readonly newcomers: Newcomers;
  /** Resident memory of the gateway: the least before, the most during, the least after. */
  readonly memory_MiB: { readonly before: number; readonly peak: number; readonly after: number };
  /** Connections of the API's listener when the attack was over and everybody had left. */
  readonly left: number;
}

export interface SiegeOptions {
  readonly key: string;
  readonly tls: ExchangeOptions['tls'];
  readonly seconds: number;
  readonly stack: AsyncDisposableStack;
  progress(text: string): void;
}

/** An appliance, others who have signatures made by it at a steady pace, and one attack after the other. */
export class Siege {
  readonly #appliance: Appliance;
  readonly #options: SiegeOptions;
  readonly #load: Helper<OpenLoadQuestion, OpenLoadAnswer>;
  readonly #transfers_base64: readonly string[];
  readonly #work: readonly Work[];

  constructor(appliance: Appliance, options: SiegeOptions) {
    const { key, stack } = options;
    this.#appliance = appliance;
    this.#options = options;
    this.#load = stack.use(new Helper('../chaos/overload-load.ts'));
    const { publicKey, url } = appliance;
    this.#transfers_base64 = unsignedTransfers(publicKey, 400).map(each => each.toString('base64'));
    this.#work = workOf('single', url, key, this.#transfers_base64);
  }

  /** Until the processes have found their pace. */
  async warmUp(seconds: number): Promise<void> {
    await this.#others(0, seconds);
  }

  async under(attack: Attack): Promise<Row> {
    const { url, pid } = this.#appliance;
    const { seconds, stack, tls, progress } = this.#options;
    const { rampUp_s = ordinaryRampUp_s } = attack;
    const processes = childrenOf(pid);
    const resident_MiB = async (during_ms: number) =>
      (await residentMemory(processes, during_ms)).gateway / 1_048_576;
    progress(`${attack.name}: the others alone`);
    const before = await this.#others(1, seconds);
    const memoryBefore = await resident_MiB(1_000);
    progress(`${attack.name}: ${attack.what}`);
    await using attacker = stack.use(new Helper<AttackQuestion, Tally>('../hostile/attacker.ts'));
    const calm = new AbortController();
    const watched = this.#peak(() => resident_MiB(250), calm.signal);
    const measured = this.#others(rampUp_s, seconds); // they are there before it begins
    await sleep(500);
    const attacking = attacker.ask({
      name: attack.name,
      seconds: rampUp_s + seconds,
      url,
      ca: tls.ca,
    });
    attacking.catch(() => undefined); // told below
    const coming = newcomers({ url, tls }, this.#work, calm.signal);
    const during = await measured;
    progress(`${attack.name}: until its last connection is closed`);
    const tally = await attacking;
    calm.abort();
    const [peak, came] = await Promise.all([watched, coming]);
    await attacker[Symbol.asyncDispose]();
    await sleep(settling_ms);
    return {
      attack,
      tally,
      before,
      during,
      ratio: during.acceptedP99_ms / before.acceptedP99_ms,
      newcomers: came,
      memory_MiB: { before: memoryBefore, peak, after: await resident_MiB(2_000) },
      left: await this.#connections(),
    };
  }

  #others(warmUp_s: number, seconds: number): Promise<OpenLoadAnswer> {
    const { key, tls } = this.#options;
    const { url } = this.#appliance;
    const load = { perSecond: others_perSecond, connections: others_connections };
    return this.#load.ask({
      url,
      tls,
      key,
      transfers_base64: this.#transfers_base64,
      ...load,
      warmUp_s,
      seconds,
    });
  }

  async #peak(resident_MiB: () => Promise<number>, signal: AbortSignal): Promise<number> {
    let most = 0;
    while (!signal.aborted) most = Math.max(most, await resident_MiB());
    return most;
  }

  /** As its metrics have them. */
  async #connections(): Promise<number> {
    const { promise, resolve, reject } = Promise.withResolvers<string>();
    const { ca } = this.#options.tls;
    const outgoing = request(`${this.#appliance.opsUrl}/metrics`, { ca, agent: false }, response => {
      response.setEncoding('utf8');
      let text = '';
      response.on('data', chunk => {
        text += String(chunk);
      });
      response.on('end', () => resolve(text));
    });
    outgoing.on('error', reject).end();
    const count = /^keyslot_http_connections\{listener="api"\} (\d+)$/m.exec(await promise)?.[1];
    if (count === undefined) throw new Error('The metrics have no count of connections.');
    return Number(count);
  }
}

const others_perSecond = 50;
const others_connections = 16;
const ordinaryRampUp_s = 6;
const settling_ms = 3_000;
