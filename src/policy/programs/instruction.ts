import type { Account, Effect } from '../facts.ts';
import type { Power } from './powers.ts';

/** What a decoder is given: the accounts and the data of one instruction. */
export interface Call {
  readonly accounts: readonly Account[];
  readonly data: Uint8Array;
}

export interface Decoded {
  readonly name: string;
  readonly understood: boolean;
  readonly effects: readonly Effect[];
}

export interface Program {
  readonly id: Uint8Array;
  decode(call: Call): Decoded;
}

/** How one instruction looks, and what it does. */
export interface Shape {
  readonly name: string;
  /** The length of the data, tag included, or whether the data has the right form. */
  readonly data: number | ((data: Uint8Array) => boolean);
  /** How many accounts it takes. Programs pass over more of them, and payments carry references there. */
  readonly accounts: number;
  /** `undefined` for values that the program does not know. Without this, the instruction moves nothing. */
  readonly effects?: (call: Call) => readonly Effect[] | undefined;
  /** Whether more may happen than the effects say. */
  readonly doubt?: (call: Call) => boolean;
}

/** A program's instructions, by the number that they begin with. */
export type Shapes = ReadonlyMap<number, Shape>;

/** Shapes in the order of the program's enum, the first being 0; their names get the program's in front. */
export function shapesOf(program: string, list: readonly (Shape | undefined)[]): Shapes {
  const shapes = new Map<number, Shape>();
  for (const [tag, shape] of list.entries()) {
    if (shape) shapes.set(tag, { ...shape, name: `${program}.${shape.name}` });
  }
  return shapes;
}

/** Strict: data that is longer or shorter than the instruction, or accounts that are missing, are not understood. */
export function decodeBy(shape: Shape | undefined, call: Call): Decoded {
  if (shape === undefined) return { name: 'unknown', understood: false, effects: [] };
  const { name } = shape;
  if (!fits(shape, call)) return { name, understood: false, effects: [] };
  const effects = shape.effects ? shape.effects(call) : nothing;
  if (effects === undefined) return { name, understood: false, effects: [] };
  const understood = !shape.doubt?.(call) && !effects.some(isUnseen);
  return { name, understood, effects: effects.length === 0 ? nothing : effects };
}

/** What is known by name, and not more. */
export const opaque = (name: string): Shape => ({
  name,
  data: () => true,
  accounts: 0,
  effects: () => undefined,
});

/** An account that the shape has made sure of. */
export function accountAt(call: Call, index: number): Account {
  const account = call.accounts[index];
  if (account === undefined) throw new RangeError(`The instruction has no account ${index}.`);
  return account;
}

export const keyAt = (data: Uint8Array, at: number): Uint8Array => data.subarray(at, at + 32);

export const u32At = (data: Uint8Array, at: number): number =>
  ((data[at] ?? 0) |
    ((data[at + 1] ?? 0) << 8) |
    ((data[at + 2] ?? 0) << 16) |
    ((data[at + 3] ?? 0) << 24)) >>>
  0;

export function u64At(data: Uint8Array, at: number): bigint {
  const low = u32At(data, at);
  const high = u32At(data, at + 4);
  // Numbers are exact up to 2^53, and a good deal faster than shifting big integers.
  return high < 0x20_0000 ? BigInt(high * 2 ** 32 + low) : (BigInt(high) << 32n) | BigInt(low);
}

/** A string of Rust's bincode: its length in eight bytes, then the text. The place behind it, or -1. */
export function endOfString(data: Uint8Array, at: number): number {
  if (at + 8 > data.length || u32At(data, at + 4) !== 0) return -1;
  const end = at + 8 + u32At(data, at);
  return end <= data.length ? end : -1;
}

export const lamports = (from: Account, to: Account, amount: bigint | 'all'): Effect => ({
  kind: 'lamports',
  from,
  to,
  amount,
});

type Handover = Extract<Effect, { kind: 'authority' }>;

/** Power over an account goes to a key, or to nobody. */
export const powerTo = (power: Power, account: Account, toKey: Uint8Array | undefined): Handover => ({
  kind: 'authority',
  power,
  account,
  toKey,
});

/** Power over an account goes to another account of the transaction, whose key a lookup table may hide. */
export const powerToAccount = (power: Power, account: Account, to: Account): Handover =>
  to.key === undefined
    ? { ...powerTo(power, account, undefined), unseen: true }
    : powerTo(power, account, to.key);

/** The account is being initialised: nobody had this power before. */
export const initial = (handover: Handover): Handover => ({ ...handover, initial: true });

export const isZero = (key: Uint8Array): boolean => key.every(byte => byte === 0);

/** Lamports that make an account of this size exempt from rent, as they always were; less may do one day. */
export const rent_lamports = (space_bytes: number): bigint => BigInt(space_bytes + 128) * 6_960n;

const nothing: readonly Effect[] = [{ kind: 'other' }];

function fits(shape: Shape, call: Call): boolean {
  if (call.accounts.length < shape.accounts) return false;
  return typeof shape.data === 'number' ? call.data.length === shape.data : shape.data(call.data);
}

const isUnseen = (effect: Effect): boolean => effect.kind === 'authority' && effect.unseen === true;
