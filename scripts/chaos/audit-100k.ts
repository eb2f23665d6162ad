import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { verifyAuditLog } from '../../src/audit/verify.ts';
import { folderFiles, memoryFiles } from '../../src/audit/verify-files.ts';
import { SignedLog } from '../../test/security/signed-log.ts';

/**
 * Has a custodian make 100,000 signatures, checks its whole audit log offline, and checks again that it is refused
 * with a byte changed, at places all over it. For machines with time: `node scripts/chaos/audit-100k.ts [signatures]`.
 */

const signatures = Number(process.argv[2] ?? 100_000);
const changes = 8;

const began = performance.now();
await using log = await SignedLog.write(signatures);
say(`${signatures} signatures were made`);

const { publicKey, witnessed } = log;
const whole = await verifyAuditLog({ files: folderFiles(log.folder), publicKeys: [publicKey], witnessed });
say(`the log is ${whole.ok ? 'in order' : `not in order: ${whole.finding?.what}`}`);
if (!whole.ok || whole.checked.signatures !== signatures) process.exitCode = 1;

const names = readdirSync(log.folder).filter(name => /^(segment|checkpoints)-/.test(name));
const files = new Map(names.map(name => [name, readFileSync(join(log.folder, name))] as const));
let missed = 0;
for (let time = 0; time < changes; time += 1) {
  const [name, bytes] = [...files][Math.floor((files.size * time) / changes)] ?? ['', Buffer.alloc(1)];
  const other = Buffer.from(bytes);
  const at = Math.floor(Math.random() * bytes.length);
  other[at] = (other[at] ?? 0) ^ (1 << (time % 7));
  const changed = memoryFiles(new Map([...files, [name, other]]));
  if ((await verifyAuditLog({ files: changed, publicKeys: [publicKey], witnessed })).ok) {
    missed += 1;
    say(`a change of ${name} at ${at} was missed`);
  }
}
say(`${changes - missed} of ${changes} changed bytes were found`);
if (missed > 0) process.exitCode = 1;

function say(what: string): void {
  console.log(`${((performance.now() - began) / 1_000).toFixed(1)} s: ${what}`);
}
