import { CustodianServer } from '../../src/custodian/server.ts';
import { silentLog } from '../../src/foundation/log.ts';
import { Secret } from '../../src/foundation/secret.ts';
import { Device } from '../custodian/device.ts';
import { Lab } from '../custodian/lab.ts';

// A custodian in a process of its own, to be killed. Says "ready" and serves until then.
const [path = '', secret = ''] = process.argv.slice(2);
const device = await Device.make();
const lab = await Lab.open({ slot: device.slot });
const seed = new Uint8Array(32).fill(1);
await lab.ask('operator', 'import-key', { key: 'wallet', slot: 'main' }, { bytes: [seed] });
await CustodianServer.listen({
  path,
  bootSecret: Secret.fromText(secret),
  custodian: lab.custodian,
  log: silentLog,
});
process.stdout.write(`ready ${lab.folder}\n`);
