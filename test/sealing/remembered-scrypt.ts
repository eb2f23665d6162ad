import crypto, { createHash } from 'node:crypto';
import { readFileSync, writeFileSync } from 'node:fs';
import { syncBuiltinESMExports } from 'node:module';
import { join } from 'node:path';

/**
 * Imported for its effect, by tests that open the same slots again and again and are about something else than
 * the derivation of their keys. Whatever Node's scrypt answered to a question, it answers to the very same question
 * again without computing it anew; every other secret, salt or cost is computed by Node, at its full cost. No code
 * of Keyslot is changed or told, and the processes of an appliance never load this.
 */
const compute = crypto.scrypt;
const variable = 'KEYSLOT_TEST_REMEMBERED_SCRYPT';
const file = process.env[variable];
const remembered = new Map<string, string>(file ? JSON.parse(readFileSync(file, 'utf8')) : []);

/** How a child process that is part of a test is started, so that it remembers what is remembered here by now. */
export function rememberingChild(folder: string): { args: readonly string[]; env: Record<string, string> } {
  const path = join(folder, 'remembered-scrypt.json');
  writeFileSync(path, JSON.stringify([...remembered]), { mode: 0o600 });
  return { args: ['--import', import.meta.url], env: { [variable]: path } };
}

function scrypt(...[password, salt, length, cost, answer]: Parameters<typeof compute>): void {
  const question = questionOf([password, salt, JSON.stringify([length, cost])]);
  const known = remembered.get(question);
  // Never before this call returns, as Node would not; fresh bytes, because whoever asked may wipe them.
  if (known) return void setImmediate(() => answer(null, Buffer.from(known, 'hex')));
  compute(password, salt, length, cost, (error, key) => {
    if (!error) remembered.set(question, key.toString('hex'));
    answer(error, key);
  });
}

function questionOf(parts: readonly crypto.BinaryLike[]): string {
  const hash = createHash('sha256');
  for (const part of parts) hash.update(createHash('sha256').update(part).digest());
  return hash.digest('hex');
}

crypto.scrypt = scrypt as typeof compute;
syncBuiltinESMExports();
