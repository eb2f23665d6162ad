import { readFileSync } from 'node:fs';
import { createInterface } from 'node:readline';
import { Writable } from 'node:stream';
import { KeyslotError } from '../foundation/errors.ts';
import { Secret } from '../foundation/secret.ts';

/** A PIN from a file, or typed without being shown; never from the command line, where everybody can read it. */
export async function readPin(file: string | undefined, prompt: string): Promise<Secret> {
  const text = file === undefined ? await typed(prompt) : fileText(file).split(/\r?\n/)[0];
  if (text) return Secret.fromText(text);
  throw new KeyslotError('SECRET_UNREADABLE', 'The PIN is empty.');
}

/** A file as text; `-` is standard input. SECRET_UNREADABLE. */
export const fileText = (file: string): string => fileBytes(file).toString('utf8');

/** A file as it is; `-` is standard input. SECRET_UNREADABLE. */
export function fileBytes(file: string): Buffer {
  try {
    return readFileSync(file === '-' ? 0 : file);
  } catch (cause) {
    throw new KeyslotError('SECRET_UNREADABLE', `${file} cannot be read.`, { cause });
  }
}

function typed(prompt: string): Promise<string> {
  if (!process.stdin.isTTY) {
    throw new KeyslotError('SECRET_UNREADABLE', 'There is no terminal to ask for the PIN: use --pin-file.');
  }
  const silent = new Writable({ write: (_chunk, _encoding, done) => done() });
  const terminal = createInterface({ input: process.stdin, output: silent, terminal: true });
  process.stderr.write(prompt); // only now: what is typed from here on is not shown
  const { promise, resolve, reject } = Promise.withResolvers<string>();
  terminal.once('line', resolve);
  const refuse = () => reject(new KeyslotError('REQUEST_ABORTED', 'No PIN was given.'));
  terminal.once('SIGINT', refuse);
  terminal.once('close', refuse); // Ctrl-D; behind a line it comes too late to matter
  return promise.finally(() => {
    terminal.close();
    process.stderr.write('\n');
  });
}
