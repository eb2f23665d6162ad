import { secretFile } from '../../src/appliance/development.ts';
import { generates } from '../../src/custody/engine.ts';
import { keyId, slotId } from '../../src/custody/ids.ts';
import { createPkcs11Engine, pkcs11Settings } from '../../src/engines/pkcs11/index.ts';
import { silentLog } from '../../src/foundation/log.ts';
import { answerParent } from '../bench/helper.ts';

/** The PKCS#11 engine by itself, without an appliance around it: how many signatures a second its sessions make. */

export interface EngineQuestion {
  readonly module: string;
  readonly tokenLabel: string;
  readonly pinFile: string;
  readonly sessions: number;
  readonly lanes: number;
  readonly seconds: number;
}

export interface EngineAnswer {
  readonly perSecond: number;
}

answerParent<EngineQuestion, EngineAnswer>(
  async ({ module, tokenLabel, pinFile, sessions, lanes, seconds }) => {
    const settings = pkcs11Settings.parse({ module, tokenLabel, sessions });
    await using engine = createPkcs11Engine(slotId('main'), settings, silentLog);
    const [slot] = await engine.slots();
    using pin = secretFile(pinFile);
    const session = await slot?.open(pin);
    if (!session || !generates(session)) throw new TypeError('The token makes no keys.');
    await session.generate(keyId('engine'));
    const signer = await session.signer(keyId('engine'));
    let signed = 0;
    let running = true;
    const lane = async () => {
      for (let at = 0; running; at += 1) {
        await signer.sign(Buffer.from(`payment ${at}`));
        signed += 1;
      }
    };
    const all = Promise.all(Array.from({ length: lanes }, lane));
    const warmUp_s = Math.min(1, seconds / 2);
    await new Promise(done => setTimeout(done, warmUp_s * 1_000));
    const [from, from_ms] = [signed, performance.now()];
    await new Promise(done => setTimeout(done, seconds * 1_000));
    const perSecond = ((signed - from) * 1_000) / (performance.now() - from_ms);
    running = false;
    await all;
    return { perSecond };
  },
);
