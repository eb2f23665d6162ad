import { closeSync, ftruncateSync, openSync, readSync, writeSync } from 'node:fs';

/**
 * The file that the faulty module maps into every process that loads it; `struct state` of
 * softhsm/faulty/faulty.c is the same layout. It is read here while the module writes: each number is whole,
 * the numbers together are of no one moment.
 */
export class FaultyState implements Disposable {
  readonly #file: number;

  constructor(path: string) {
    this.#file = openSync(path, 'w+', 0o600);
    ftruncateSync(this.#file, size_bytes);
  }

  read(field: Field): number {
    return Number(this.#bytes(fields[field], 8).readBigUInt64LE());
  }

  write(field: Field, value: number): void {
    this.#write(fields[field], value);
  }

  calls(): Readonly<Record<string, number>> {
    const bytes = this.#bytes(functionsAt, 80 * 48);
    const entries = Array.from({ length: 80 }, (_, at) => bytes.subarray(at * 48, at * 48 + 48));
    return Object.fromEntries(
      entries.filter(each => each[0] !== 0).map(each => [textOf(each.subarray(0, 40)), numberAt(each, 40)]),
    );
  }

  rule(id: number): { met: number; fired: number } {
    const bytes = this.#bytes(rulesAt + id * 16, 16);
    return { met: numberAt(bytes, 0), fired: numberAt(bytes, 8) };
  }

  pin(label: string): PinCount {
    const at = this.#tokenAt(label);
    if (at === undefined) return { attempts: 0, wrong: 0, failures: 0 };
    const bytes = this.#bytes(at + 32, 24);
    return { attempts: numberAt(bytes, 0), wrong: numberAt(bytes, 8), failures: numberAt(bytes, 16) };
  }

  forgetFailures(label: string): void {
    const at = this.#tokenAt(label);
    if (at !== undefined) this.#write(at + 48, 0);
  }

  [Symbol.dispose](): void {
    closeSync(this.#file);
  }

  #tokenAt(label: string): number | undefined {
    const places = Array.from({ length: 16 }, (_, at) => tokensAt + at * 64);
    return places.find(at => textOf(this.#bytes(at, 32)) === label);
  }

  #bytes(at: number, length: number): Buffer {
    const bytes = Buffer.alloc(length);
    readSync(this.#file, bytes, 0, length, at);
    return bytes;
  }

  #write(at: number, value: number): void {
    const bytes = Buffer.alloc(8);
    bytes.writeBigUInt64LE(BigInt(value));
    writeSync(this.#file, bytes, 0, 8, at);
  }
}

/** What a token made of the PINs that it looked at; `failures` are the wrong ones since the last right one. */
export interface PinCount {
  readonly attempts: number;
  readonly wrong: number;
  readonly failures: number;
}

export type Field = keyof typeof fields;

export const rules_max = 4096;

const fields = { generation: 0, logEntries: 8, objects: 16, hangs: 24, inside_max: 32 };
const tokensAt = 64;
const functionsAt = tokensAt + 16 * 64;
const rulesAt = functionsAt + 80 * 48;
const size_bytes = rulesAt + rules_max * 16;

const numberAt = (bytes: Buffer, at: number) => Number(bytes.readBigUInt64LE(at));
const textOf = (bytes: Buffer) =>
  bytes.subarray(0, bytes.indexOf(0) < 0 ? bytes.length : bytes.indexOf(0)).toString();
