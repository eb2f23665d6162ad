import { type ErrorCode, isErrorCode, KeyslotError, toKeyslotError } from '../foundation/errors.ts';

/**
 * Questions and answers of two processes over a channel on which both say other things as well. A failure arrives as
 * the error of the table that it is.
 */
export class Dialogue {
  readonly #send: (line: Line) => void;
  readonly #waiting = new Map<number, PromiseWithResolvers<unknown>>();
  #count = 0;
  #end: KeyslotError | undefined;

  constructor(send: (line: Line) => void) {
    this.#send = send;
  }

  /** The answer of the other side. DEADLINE_EXCEEDED after `bound_ms`, the failure of the other side, or its end. */
  async ask(question: unknown, bound_ms: number): Promise<unknown> {
    if (this.#end) throw this.#end;
    this.#count += 1;
    const id = this.#count;
    const answer = Promise.withResolvers<unknown>();
    this.#waiting.set(id, answer);
    const timer = setTimeout(() => answer.reject(tooLate(bound_ms)), bound_ms);
    try {
      this.#send({ type: 'asked', id, question });
      return await answer.promise;
    } finally {
      clearTimeout(timer);
      this.#waiting.delete(id);
    }
  }

  /** Takes in what the other side said; `answer` is who answers its questions. */
  hear(line: Line, answer: (question: unknown) => Promise<unknown>): void {
    if (line.type === 'asked') void this.#answer(line, answer);
    else if ('failure' in line) {
      const { code, detail } = line.failure;
      this.#waiting.get(line.id)?.reject(new KeyslotError(knownCode(code), detail));
    } else this.#waiting.get(line.id)?.resolve(line.answer);
  }

  /** Nobody is there any more. */
  end(why: KeyslotError): void {
    this.#end = why;
    for (const { reject } of this.#waiting.values()) reject(why);
  }

  async #answer({ id, question }: Asked, answer: (question: unknown) => Promise<unknown>): Promise<void> {
    try {
      this.#send({ type: 'answered', id, answer: await answer(question) });
    } catch (thrown) {
      const { code, message: detail } = toKeyslotError(thrown);
      if (code === 'INTERNAL') console.error(thrown);
      this.#send({ type: 'answered', id, failure: { code, detail } });
    }
  }
}

/** What stands on the channel. */
export type Line = Asked | Answered;

export const isLine = (said: { readonly type: string }): said is Line =>
  said.type === 'asked' || said.type === 'answered';

interface Asked {
  readonly type: 'asked';
  readonly id: number;
  readonly question: unknown;
}

type Answered = { readonly type: 'answered'; readonly id: number } & (
  | { readonly answer: unknown }
  | { readonly failure: { readonly code: string; readonly detail: string } }
);

export const knownCode = (code: string): ErrorCode => (isErrorCode(code) ? code : 'INTERNAL');

const tooLate = (bound_ms: number) =>
  new KeyslotError('DEADLINE_EXCEEDED', `A process of the appliance did not answer within ${bound_ms} ms.`);
