import { writeSync } from 'node:fs';
import { openAuditLog } from '../../src/audit/open.ts';
import { silentLog } from '../../src/foundation/log.ts';

// Appends from several sides at once and says behind each record that it is durable, until it is killed or, with
// a number of records, until those are tried.
const [folder = '', name = '', tries = 'endless'] = process.argv.slice(2);
const log = await openAuditLog({
  folder,
  node: 'test',
  segment_records: 64,
  checkpoint: { every_ms: 5, records: 50 },
  witnesses: [],
  log: silentLog,
});
let count = 0;
async function lane(): Promise<void> {
  while (tries === 'endless' || count < Number(tries)) {
    const requestId = `${name}-${count++}`;
    try {
      const { seq, hash } = await log.append({ type: 'event', requestId, operation: 'x'.repeat(200) });
      writeSync(1, `${seq} ${hash} ${requestId}\n`);
    } catch (error) {
      writeSync(
        1,
        `refused ${error instanceof Error && 'code' in error ? error.code : error} ${log.status().state}\n`,
      );
    }
  }
}
await Promise.all([lane(), lane(), lane(), lane()]);
