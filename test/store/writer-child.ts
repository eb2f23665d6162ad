import { writeSync } from 'node:fs';
import { keyId, publicKeyBytes, slotId } from '../../src/custody/ids.ts';
import { KeyRegistry } from '../../src/store/key-registry.ts';
import { Store } from '../../src/store/store.ts';

// Makes one key after the other and says so behind each, until it is killed.
const [file = '', prefix = ''] = process.argv.slice(2);
const registry = new KeyRegistry(new Store(file));
for (let count = 0; ; count += 1) {
  const id = keyId(`${prefix}-${count}`);
  registry.begin(id, slotId('main'), 'generated', new Date());
  const publicKey = publicKeyBytes(new Uint8Array(32).fill(count));
  registry.complete({ id, publicKey, custody: 'memory', exportable: false });
  writeSync(1, `${id}\n`);
}
