import { Helper } from '../bench/helper.ts';
import type { LoadAnswer, LoadQuestion } from '../bench/load.ts';
import { unsignedTransfers } from '../bench/transfers.ts';
import type { Mode } from '../bench/work.ts';
import { atLeast, type Chaos, type Figure, type Scenario, told } from './figure.ts';
import { House, key, tokenLabel } from './house.ts';
import type { EngineAnswer, EngineQuestion } from './latency-engine.ts';

/**
 * A device that takes 10 ms for a signature and has 32 sessions: 3,200 signatures a second are possible. How much of
 * that the engine by itself makes of it, and how much comes out of the appliance, one by one and in batches.
 */
export const latency: Scenario = {
  name: 'latency',
  what: 'a slow device with many sessions',
  async run({ short, stack, progress }: Chaos): Promise<readonly Figure[]> {
    const seconds = short ? 2 : 15;
    const house = await House.start(stack, { sessions, threads: sessions });
    const { faulty, home, appliance } = house;
    const { url, publicKey } = appliance;
    const load = stack.use(new Helper<LoadQuestion, LoadAnswer>('load.ts'));
    const transfers_base64 = unsignedTransfers(publicKey, 400).map(each => each.toString('base64'));
    const ask = (mode: Mode, connections: number) =>
      load.ask({
        url,
        tls: house.tls,
        mode,
        connections,
        key,
        publicKey,
        transfers_base64,
        warmUp_s: short ? 1 : 5,
        seconds_max: seconds,
        signatures_max: Number.MAX_SAFE_INTEGER,
      });
    faulty.inject({ on: 'C_Sign', effect: 'latency', ms: latency_ms, token: tokenLabel });
    progress('the appliance, one by one');
    const single = await ask('single', 96);
    progress('the appliance, in batches');
    const batch = await ask('batch', 16);
    await house.stop();
    progress('the engine by itself');
    const engine = stack.use(
      new Helper<EngineQuestion, EngineAnswer>('../chaos/latency-engine.ts', {
        ...faulty.environment,
        SOFTHSM2_CONF: home.softhsmConf,
        UV_THREADPOOL_SIZE: String(sessions + 2),
      }),
    );
    const { perSecond } = await engine.ask({
      module: faulty.modulePath,
      tokenLabel,
      pinFile: home.pinFile,
      sessions,
      lanes: 2 * sessions,
      seconds,
    });
    const possible = (sessions * 1_000) / latency_ms;
    const rate = ({ signatures, seconds }: LoadAnswer) => signatures / seconds;
    return [
      atLeast(
        'latency_engine_share',
        'of 3,200 signatures a second: the engine by itself',
        perSecond / possible,
        0.9,
      ),
      atLeast(
        'latency_batch_share',
        'the same through the appliance, in batches',
        rate(batch) / possible,
        0.9,
      ),
      atLeast(
        'latency_single_share',
        'the same through the appliance, one by one',
        rate(single) / possible,
        0.9,
      ),
      told('latency_engine_per_second', 'signatures a second: the engine by itself', perSecond),
      told('latency_batch_per_second', 'through the appliance, in batches', rate(batch)),
      told('latency_single_per_second', 'through the appliance, one by one', rate(single)),
      told('latency_refused', 'requests that were turned away', single.refused + batch.refused),
    ];
  },
};

const sessions = 32;
const latency_ms = 10;
