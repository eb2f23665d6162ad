import {
  type Exports,
  exports as exportsKeys,
  type Imports,
  imports,
  type Session,
  type Slot,
} from '../../src/custody/engine.ts';
import { openEveryCustody, type Place } from './every-custody.ts';
import { askOf } from './lab.ts';

/**
 * A custodian over every custody that runs many migrations at once, each of which stands still when it reaches
 * one point. When all of them stand there, it says so, and is killed.
 */
const [placeText = '{}', migrationList = '', stopAt = ''] = process.argv.slice(2);
const migrations = migrationList.split(',');
let standing = 0;

async function stand(point: string): Promise<void> {
  if (point !== stopAt) return;
  standing += 1;
  if (standing === migrations.length) process.stdout.write('all stand\n');
  await new Promise(() => undefined);
}

const bend = (slot: Slot): Slot => ({
  id: slot.id,
  describe: () => slot.describe(),
  open: async (pin, signal) => bent(await slot.open(pin, signal)),
});

function bent(honest: Session): Session {
  const session: Session & Partial<Imports & Exports> = {
    slot: honest.slot,
    keys: () => honest.keys(),
    signer: async key => {
      const signer = await honest.signer(key);
      return {
        key: signer.key,
        sign: async (message, signal) => {
          await stand('before the target signs');
          return signer.sign(message, signal);
        },
      };
    },
    [Symbol.asyncDispose]: () => honest[Symbol.asyncDispose](),
  };
  if (exportsKeys(honest)) {
    session.export = async key => {
      await stand('before the source exports');
      return honest.export(key);
    };
  }
  if (imports(honest)) {
    session.import = async (key, seed) => {
      await stand('before the target imports');
      const info = await honest.import(key, seed);
      await stand('after the target imported');
      return info;
    };
  }
  return session;
}

setInterval(() => undefined, 60_000); // standing still is no reason to end
const world = await openEveryCustody(JSON.parse(placeText) as Place, bend);
for (const migration of migrations) {
  askOf(world.custodian, 'operator', 'run-migration', { migration, max: 1 }).catch(error => {
    process.stderr.write(`${migration}: ${String(error)}\n`);
    process.exit(1);
  });
}
