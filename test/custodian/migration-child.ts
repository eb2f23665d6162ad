import { writeSync } from 'node:fs';
import {
  type Destroys,
  destroys,
  type Exports,
  exports,
  type Imports,
  imports,
  type Session,
  type Slot,
} from '../../src/custody/engine.ts';
import { type SqlValue, Store } from '../../src/store/store.ts';
import { askOf } from './lab.ts';
import { openWorld, type WorldPlace } from './migration-world.ts';

/**
 * A custodian in a process of its own that does one step of a migration and stands still at one point of it,
 * below the custodian: in a call to a slot, or in a write to the store. There it says so, and is killed.
 */
const [place = '{}', operation = '', migration = '', stopAt = ''] = process.argv.slice(2);

/** Nothing goes on in this process once it stands at its point, not even the event loop. */
function pass(point: string): void {
  if (point !== stopAt) return;
  writeSync(1, `at ${point}\n`);
  Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0);
}

class StoppingStore extends Store {
  #switched = false;

  override run(sql: string, ...values: readonly SqlValue[]): void {
    if (sql.startsWith('UPDATE migration_keys SET step')) pass(`write ${String(values[0])}`);
    if (sql.startsWith('UPDATE keys')) {
      pass('write registry');
      this.#switched = true;
    }
    super.run(sql, ...values);
  }

  override transaction<T>(work: () => T): T {
    return super.transaction(() => {
      const result = work();
      if (this.#switched) pass('commit'); // others have transactions too
      return result;
    });
  }
}

const stoppingSlot = (slot: Slot): Slot => ({
  id: slot.id,
  describe: () => slot.describe(),
  open: async (pin, signal) => stoppingSession(await slot.open(pin, signal)),
});

function stoppingSession(honest: Session): Session {
  const session: Session & Partial<Imports & Exports & Destroys> = {
    slot: honest.slot,
    keys: () => honest.keys(),
    signer: async key => {
      const signer = await honest.signer(key);
      return {
        key: signer.key,
        sign: (message, signal) => {
          pass(`sign in ${honest.slot}`);
          return signer.sign(message, signal);
        },
      };
    },
    [Symbol.asyncDispose]: () => honest[Symbol.asyncDispose](),
  };
  if (exports(honest)) {
    session.export = async key => {
      pass('export');
      return honest.export(key);
    };
  }
  if (imports(honest)) {
    session.import = async (key, seed) => {
      pass('import');
      return honest.import(key, seed);
    };
  }
  if (destroys(honest)) {
    session.destroy = async key => {
      pass('destroy');
      return honest.destroy(key);
    };
  }
  return session;
}

const world = await openWorld(JSON.parse(place) as WorldPlace, {
  slot: stoppingSlot,
  store: file => new StoppingStore(file),
});
const verb = operation as 'run-migration' | 'rollback-migration' | 'destroy-copies';
await askOf(world.custodian, 'operator', verb, { migration, max: 10 });
await world[Symbol.asyncDispose]();
