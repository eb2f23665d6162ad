import { appendFileSync, existsSync, readFileSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import { setImmediate as turn } from 'node:timers/promises';
import { day_ms, Log, World } from './ledger-world.ts';

// Charges, signs and fails, and flushes all the time, until it is killed. Its log is a file, written before it is
// counted, as the real one is.
const [folder = ''] = process.argv.slice(2);
const file = join(folder, 'log');
const log = new Log();
const held = existsSync(file) ? readFileSync(file, 'utf8').split('\n').slice(0, -1) : [];
for (const line of held) log.take(line);
const world = new World(log, folder);
world.now_ms = Date.now();
log.persist = line => appendFileSync(file, `${line}\n`);
const ledger = await world.start({ flush_ms: 1 });
for (let at = log.lines.length; ; at += 1) {
  const charges = [{ counter: 'treasury/daily/policy', window_s: day_ms / 1_000, amount: String(at) }];
  const idempotency = at.toString(16).padStart(64, '0');
  const intent = log.append({ type: 'intent', charges, idempotency }, Date.now());
  if (at % 3 === 0) await turn();
  const outcome = at % 4 === 0 ? 'failed' : 'ok';
  if (at % 7 !== 0) {
    log.append({ type: 'result', intent: intent.seq, outcome, signature: 'AAAA' }, Date.now());
  }
  if (at % 5 === 0) await ledger.flush();
  writeSync(1, '.\n');
}
