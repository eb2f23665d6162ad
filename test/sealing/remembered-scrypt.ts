import crypto, { createHash } from 'node:crypto';
import { appendFileSync, existsSync, readFileSync, writeFileSync } from 'node:fs';
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
const remembered = new Map<string, string>(file && existsSync(file) ? answersIn(file) : []);

/** How a child process that is part of a test is started, so that it remembers what is remembered here by now. */
export function rememberingChild(folder: string): { args: readonly string[]; env: Record<string, string> } {
  const path = join(folder, 'remembered-scrypt');
  writeFileSync(path, [...remembered].map(lineOf).join(''), { mode: 0o600 });
  return { args: ['--import', import.meta.url], env: { [variable]: path } };
}

/** The environment of commands that a test runs one after the other: each remembers what those before it computed. */
export const rememberingCommands = (folder: string): Record<string, string> => ({
  NODE_OPTIONS: `--import=${import.meta.url}`,
  [variable]: join(folder, 'remembered-scrypt'),
});

function answersIn(path: string): [string, string][] {
  const lines = readFileSync(path, 'utf8').split('\n').slice(0, -1);
  return lines.map(line => line.split(' ', 2) as [string, string]);
}

const lineOf = ([question, answer]: readonly [string, string]): string => `${question} ${answer}\n`;

const news = new Map<string, string>();
if (file) {
  process.on('exit', () => appendFileSync(file, [...news].map(lineOf).join(''), { mode: 0o600 }));
}

function scrypt(...[password, salt, length, cost, answer]: Parameters<typeof compute>): void {
  const question = questionOf([password, salt, JSON.stringify([length, cost])]);
  const known = remembered.get(question);
  // Never before this call returns, as Node would not; fresh bytes, because whoever asked may wipe them.
  if (known) return void setImmediate(() => answer(null, Buffer.from(known, 'hex')));
  compute(password, salt, length, cost, (error, key) => {
    if (!error) {
      remembered.set(question, key.toString('hex'));
      news.set(question, key.toString('hex'));
    }
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
