import { Keypair } from '@solana/web3.js';
import fc from 'fast-check';

/** A message in parts, and the wire bytes made of it: written apart from the readers, from the same specs. */
export interface CompiledInstruction {
  readonly programIndex: number;
  readonly accounts: readonly number[];
  readonly data: Uint8Array;
}

export interface CompiledLookup {
  readonly table: Uint8Array;
  readonly writable: readonly number[];
  readonly readonly: readonly number[];
}

export interface Compiled {
  readonly version: 'legacy' | 'v0' | 'v1';
  readonly required: number;
  readonly readonlySigned: number;
  readonly readonlyUnsigned: number;
  readonly keys: readonly Uint8Array[];
  readonly blockhash: Uint8Array;
  readonly instructions: readonly CompiledInstruction[];
  readonly lookups: readonly CompiledLookup[];
  readonly mask: number;
  /** The words of the config, four bytes each. */
  readonly config: readonly number[];
}

export function messageBytes(parts: Compiled): Uint8Array {
  return Uint8Array.from(parts.version === 'v1' ? messageFirst(parts) : signaturesFirst(parts));
}

/** The wire transaction, with signatures that are all different and not zero. */
export function wireBytes(parts: Compiled, signatures = signaturePlaces(parts.required)): Uint8Array {
  const message = messageBytes(parts);
  const all = signatures.flatMap(signature => [...signature]);
  return Uint8Array.from(
    parts.version === 'v1' ? [...message, ...all] : [...compactU16(signatures.length), ...all, ...message],
  );
}

export const signaturePlaces = (count: number): Uint8Array[] =>
  Array.from({ length: count }, (_, index) => new Uint8Array(64).fill(index + 1));

export function compactU16(value: number): number[] {
  if (value < 0x80) return [value];
  if (value < 0x4000) return [(value & 0x7f) | 0x80, value >> 7];
  return [(value & 0x7f) | 0x80, ((value >> 7) & 0x7f) | 0x80, value >> 14];
}

export const u32 = (value: number): number[] => [
  value & 0xff,
  (value >>> 8) & 0xff,
  (value >>> 16) & 0xff,
  value >>> 24,
];

const listed = (bytes: readonly number[] | Uint8Array): number[] => [...compactU16(bytes.length), ...bytes];

const header = (parts: Compiled): number[] => [parts.required, parts.readonlySigned, parts.readonlyUnsigned];

function signaturesFirst(parts: Compiled): number[] {
  const lookups = [
    ...compactU16(parts.lookups.length),
    ...parts.lookups.flatMap(lookup => [
      ...lookup.table,
      ...listed(lookup.writable),
      ...listed(lookup.readonly),
    ]),
  ];
  return [
    ...(parts.version === 'v0' ? [0x80] : []),
    ...header(parts),
    ...compactU16(parts.keys.length),
    ...parts.keys.flatMap(key => [...key]),
    ...parts.blockhash,
    ...compactU16(parts.instructions.length),
    ...parts.instructions.flatMap(one => [one.programIndex, ...listed(one.accounts), ...listed(one.data)]),
    ...(parts.version === 'v0' ? lookups : []),
  ];
}

function messageFirst(parts: Compiled): number[] {
  return [
    0x81,
    ...header(parts),
    ...u32(parts.mask),
    ...parts.blockhash,
    parts.instructions.length,
    parts.keys.length,
    ...parts.keys.flatMap(key => [...key]),
    ...parts.config.flatMap(u32),
    ...parts.instructions.flatMap(one => [
      one.programIndex,
      one.accounts.length,
      one.data.length & 0xff,
      one.data.length >> 8,
    ]),
    ...parts.instructions.flatMap(one => [...one.accounts, ...one.data]),
  ];
}

export const key = (seed: number): Uint8Array =>
  Keypair.fromSeed(new Uint8Array(32).fill(seed)).publicKey.toBytes();

/** A plain transfer-like message of two signers, to be varied by a test. */
export const plain: Compiled = {
  version: 'legacy',
  required: 2,
  readonlySigned: 1,
  readonlyUnsigned: 1,
  keys: [key(1), key(2), key(3), key(4)],
  blockhash: new Uint8Array(32).fill(9),
  instructions: [{ programIndex: 3, accounts: [0, 1, 2], data: Uint8Array.of(2, 0, 0, 0) }],
  lookups: [],
  mask: 0,
  config: [],
};

export const plainV0: Compiled = {
  ...plain,
  version: 'v0',
  instructions: [{ programIndex: 3, accounts: [0, 4, 6], data: Uint8Array.of(7) }],
  lookups: [
    { table: key(5), writable: [1, 200], readonly: [] },
    { table: key(6), writable: [], readonly: [3] },
  ],
};

export const plainV1: Compiled = {
  ...plain,
  version: 'v1',
  mask: 0b11111,
  config: [5, 1, 200_000, 64_000, 65_536],
};

const bytes32 = fc.uint8Array({ minLength: 32, maxLength: 32 });

/** Messages that keep every rule of a validator and fit the size of their version. */
export const compiledMessages: fc.Arbitrary<Compiled> = fc
  .record({
    version: fc.constantFrom('legacy' as const, 'v0' as const, 'v1' as const),
    keys: fc.uniqueArray(bytes32, { minLength: 2, maxLength: 9, selector: String }),
    blockhash: bytes32,
    lookups: fc.array(
      fc.record({
        table: bytes32,
        writable: fc.array(fc.nat(255), { minLength: 1, maxLength: 5 }),
        readonly: fc.array(fc.nat(255), { maxLength: 5 }),
      }),
      { maxLength: 3 },
    ),
    fee: fc.boolean(),
    otherBits: fc.nat(7),
    words: fc.array(fc.nat(0x1fffff), { minLength: 5, maxLength: 5 }),
  })
  .chain(base => {
    const lookups = base.version === 'v0' ? base.lookups : [];
    const loaded = lookups.reduce((sum, one) => sum + one.writable.length + one.readonly.length, 0);
    const accountIndex = fc.nat(base.keys.length + loaded - 1);
    return fc
      .record({
        required: fc.integer({ min: 1, max: Math.min(4, base.keys.length) }),
        readonlyShare: fc.nat(3),
        unsignedShare: fc.nat(9),
        instructions: fc.array(
          fc.record({
            programIndex: fc.integer({ min: 1, max: base.keys.length - 1 }),
            accounts: fc.array(accountIndex, { maxLength: 12 }),
            data: fc.uint8Array({ maxLength: 40 }),
          }),
          { maxLength: 4 },
        ),
      })
      .map(rest => ({
        version: base.version,
        required: rest.required,
        readonlySigned: Math.min(rest.readonlyShare, rest.required - 1),
        readonlyUnsigned: Math.min(rest.unsignedShare, base.keys.length - rest.required),
        keys: base.keys,
        blockhash: base.blockhash,
        instructions: rest.instructions,
        lookups,
        ...config(base.fee, base.otherBits, base.words),
      }));
  });

function config(
  fee: boolean,
  otherBits: number,
  words: readonly number[],
): Pick<Compiled, 'mask' | 'config'> {
  const mask = (fee ? 0b11 : 0) | (otherBits << 2);
  const values = words.filter((_, bit) => mask & (1 << bit));
  if (mask & 0b10000) values[values.length - 1] = 32_768 + ((values.at(-1) ?? 0) % 225) * 1024;
  return { mask, config: values };
}
