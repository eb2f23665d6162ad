import { writeFileSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { type Chaos, exactly, type Figure, type Scenario, told } from './figure.ts';
import { House, prepareFaultyHome, startRefused, tokenLabel } from './house.ts';

/**
 * The PIN in the file becomes a wrong one while the appliance runs. Its custodian is killed a few times, and then an
 * init system starts the appliance, which refuses to start, over and over.
 */
export const pin: Scenario = {
  name: 'pin',
  what: 'restarts with a wrong PIN',
  async run({ short, stack, progress }: Chaos): Promise<readonly Figure[]> {
    const { kills, starts } = short ? { kills: 2, starts: 2 } : { kills: 10, starts: 40 };
    const home = await prepareFaultyHome(stack);
    const house = await House.on(home, stack);
    const client = house.client();
    const right = home.faulty.pin(tokenLabel).attempts;
    writeFileSync(home.pinFile, 'wrong-wrong-wrong\n', { mode: 0o600 });
    let latched = 0;
    for (let at = 0; at < kills; at += 1) {
      progress(`${at} of ${kills + starts} restarts`);
      const pid = await house.custodian();
      process.kill(pid, 'SIGKILL');
      await house.custodian(pid);
      if ((await settled(() => client.slots.show('main'))) === 'latched') latched += 1;
    }
    await house.stop();
    let refused = 0;
    for (let at = 0; at < starts; at += 1) {
      progress(`${kills + at} of ${kills + starts} restarts`);
      if ((await startRefused(home, stack)) === 'SLOT_LATCHED') refused += 1;
    }
    const { attempts, wrong } = home.faulty.pin(tokenLabel);
    return [
      exactly('pin_attempts', 'PINs that the token looked at after its file was wrong', attempts - right, 1),
      exactly('pin_wrong', 'wrong PINs that the token counted', wrong, 1),
      exactly('pin_latched', 'custodians that came back with the slot latched', latched, kills),
      exactly('pin_refused', 'starts that were refused with SLOT_LATCHED', refused, starts),
      told('pin_restarts', 'restarts of both kinds', kills + starts),
    ];
  },
};

/** The state of the slot, once its custodian has said one that does not pass. */
async function settled(show: () => Promise<{ readonly state: string }>): Promise<string> {
  for (const until_ms = performance.now() + patience_ms; performance.now() < until_ms; await sleep(20)) {
    const { state } = await show();
    if (state !== 'locked') return state;
  }
  return 'locked';
}

const patience_ms = 10_000;
