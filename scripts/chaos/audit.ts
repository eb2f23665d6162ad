import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { verifyAuditLog } from '../../src/audit/verify.ts';
import { folderFiles, memoryFiles } from '../../src/audit/verify-files.ts';
import { SignedLog } from '../../test/security/signed-log.ts';
import { type Chaos, exactly, type Figure, type Scenario, told } from './figure.ts';

/**
 * A custodian makes a long audit log, which is checked offline, and checked again with one bit changed, at places all
 * over it.
 */
export const audit: Scenario = {
  name: 'audit',
  what: 'a long audit log, whole and changed',
  async run({ short, stack, progress, note }: Chaos): Promise<readonly Figure[]> {
    const signatures = short ? 1_000 : 100_000;
    progress(`making ${signatures} signatures`);
    const log = stack.use(await SignedLog.write(signatures));
    const { publicKey, witnessed } = log;
    progress('checking the log');
    const whole = await verifyAuditLog({
      files: folderFiles(log.folder),
      publicKeys: [publicKey],
      witnessed,
    });
    if (!whole.ok) note(`The audit log is not in order: ${JSON.stringify(whole.finding)}`);
    const names = readdirSync(log.folder).filter(name => /^(segment|checkpoints)-/.test(name));
    const files = new Map(names.map(name => [name, readFileSync(join(log.folder, name))] as const));
    let found = 0;
    for (let time = 0; time < changes; time += 1) {
      progress(`${time} of ${changes} changes`);
      const [name, bytes] = [...files][Math.floor((files.size * time) / changes)] ?? ['', Buffer.alloc(1)];
      const other = Buffer.from(bytes);
      const at = Math.floor(Math.random() * bytes.length);
      other[at] = (other[at] ?? 0) ^ (1 << (time % 7));
      const changed = memoryFiles(new Map([...files, [name, other]]));
      if (!(await verifyAuditLog({ files: changed, publicKeys: [publicKey], witnessed })).ok) found += 1;
      else note(`A change of ${name} at ${at} was missed.`);
    }
    return [
      exactly('audit_log_findings', 'what is wrong with the log as it was written', whole.ok ? 0 : 1, 0),
      exactly('audit_verified', 'signatures in it that verify', whole.checked.signatures, signatures),
      exactly('audit_changes_found', 'changes of one bit that were found', found, changes),
      told('audit_files', 'files of the log', names.length),
    ];
  },
};

const changes = 8;
