import { mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { slotId } from '../../src/custody/ids.ts';
import { Secret } from '../../src/foundation/secret.ts';
import { Latches } from '../../src/store/latches.ts';
import { Store } from '../../src/store/store.ts';

const main = slotId('main');
const pinText = 'a refused PIN 4711';
let folder: string;
let store: Store;

beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'keyslot-latches-'));
  store = new Store(join(folder, 'keyslot.db'));
});

afterEach(() => {
  store[Symbol.dispose]();
  rmSync(folder, { recursive: true, force: true });
});

const latches = () => new Latches(store);
const holds = (pin: string, slot = main) => latches().holds(slot, Secret.fromText(pin));
const set = (pin = pinText, slot = main) => latches().set(slot, Secret.fromText(pin), new Date(0));

describe('a latch', () => {
  it('holds the PIN that was refused, and no other', async () => {
    expect(await holds(pinText)).toBe(false);
    await set();
    expect(await holds(pinText)).toBe(true);
    expect(await holds(`${pinText} `)).toBe(false);
    expect(await holds('')).toBe(false);
  });

  it('holds it for its own slot', async () => {
    await set();
    expect(await holds(pinText, slotId('spare'))).toBe(false);
    latches().clear(slotId('spare'));
    expect(await holds(pinText)).toBe(true);
  });

  it('holds it through a restart, until it is cleared', async () => {
    await set();
    store[Symbol.dispose]();
    store = new Store(join(folder, 'keyslot.db'));
    expect(await holds(pinText)).toBe(true);
    latches().clear(main);
    expect(await holds(pinText)).toBe(false);
    latches().clear(main);
  });

  it('holds the latest PIN that was refused', async () => {
    await set('first');
    await set('second');
    expect(await holds('second')).toBe(true);
    expect(store.all('SELECT slot FROM latches')).toEqual([{ slot: 'main' }]);
  });

  it('does not write the PIN down, nor the same digest twice', async () => {
    await set(pinText, main);
    await set(pinText, slotId('spare'));
    const [one, two] = store.all('SELECT digest FROM latches') as { digest: Uint8Array }[];
    expect(Buffer.from(one?.digest ?? [])).not.toEqual(Buffer.from(two?.digest ?? []));
    for (const form of [
      pinText,
      Buffer.from(pinText).toString('hex'),
      Buffer.from(pinText).toString('base64'),
    ]) {
      for (const name of readdirSync(folder)) {
        expect(readFileSync(join(folder, name)).includes(form)).toBe(false);
      }
    }
  });
});
