import { createInterface } from 'node:readline';

/** Whether the person at the terminal typed the word that was asked for. Ctrl-C and Ctrl-D are no. */
export function confirmed(question: string, word: string): Promise<boolean> {
  const terminal = createInterface({ input: process.stdin, output: process.stderr });
  const { promise, resolve } = Promise.withResolvers<boolean>();
  terminal.question(question, answer => resolve(answer.trim() === word));
  terminal.once('SIGINT', () => resolve(false));
  terminal.once('close', () => resolve(false)); // behind an answer it comes too late to matter
  return promise.finally(() => terminal.close());
}
