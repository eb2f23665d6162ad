import { createInterface } from 'node:readline';
import { KeyslotError } from '../foundation/errors.ts';

/** Asks for what was not said by a flag: on a terminal; elsewhere, and with `--yes`, the default is the answer. */
export class Questions {
  readonly asks: boolean;

  constructor(asks: boolean) {
    this.asks = asks;
  }

  /** What is typed, or the default for an empty line. REQUEST_ABORTED for Ctrl-C and Ctrl-D. */
  async text(question: string, otherwise: string): Promise<string> {
    if (!this.asks) return otherwise;
    return (await typedLine(`${question}${otherwise ? ` [${otherwise}]` : ''}: `)) || otherwise;
  }

  /** One of these; asked again until it is. */
  async choice<T extends string>(question: string, choices: readonly T[], otherwise: T): Promise<T> {
    for (;;) {
      const typed = await this.text(`${question} (${choices.join(', ')})`, otherwise);
      const chosen = choices.find(each => each === typed);
      if (chosen !== undefined) return chosen;
    }
  }
}

function typedLine(question: string): Promise<string> {
  const terminal = createInterface({ input: process.stdin, output: process.stderr });
  const { promise, resolve, reject } = Promise.withResolvers<string>();
  terminal.question(question, answer => resolve(answer.trim()));
  const refuse = () => reject(new KeyslotError('REQUEST_ABORTED', 'Nothing was written.'));
  terminal.once('SIGINT', () => process.stderr.write('\n')); // the question stands without an answer
  terminal.once('SIGINT', refuse);
  terminal.once('close', refuse); // behind an answer it comes too late to matter
  return promise.finally(() => terminal.close());
}
