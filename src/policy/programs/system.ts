import { programKey } from '../named-programs.ts';
import {
  accountAt,
  type Call,
  decodeBy,
  endOfString,
  initial,
  keyAt,
  lamports,
  type Program,
  powerTo,
  type Shape,
  shapesOf,
  u32At,
  u64At,
} from './instruction.ts';

/**
 * The system program: `SystemInstruction` of solana-system-interface, in bincode (the number of the instruction in
 * four bytes, then its fields). All thirteen instructions and CreateAccountAllowPrefund of SIMD-0312.
 */
const list: readonly Shape[] = [
  // lamports, space, owner; payer, new account
  { name: 'create-account', data: 52, accounts: 2, effects: call => creation(call, 0, 1, 4) },
  // owner; account
  { name: 'assign', data: 36, accounts: 1, effects: call => [handOver(call, 4)] },
  // lamports; from, to
  {
    name: 'transfer',
    data: 12,
    accounts: 2,
    effects: call => [lamports(accountAt(call, 0), accountAt(call, 1), u64At(call.data, 4))],
  },
  // base, seed, lamports, space, owner; payer, new account, and base where it is not the payer
  {
    name: 'create-account-with-seed',
    data: data => endOfString(data, 36) === data.length - 48,
    accounts: 2,
    effects: call => creation(call, 0, 1, call.data.length - 48),
  },
  // nonce account, recent blockhashes, authority
  { name: 'advance-nonce-account', data: 4, accounts: 3 },
  // lamports; nonce account, recipient, recent blockhashes, rent, authority
  {
    name: 'withdraw-nonce-account',
    data: 12,
    accounts: 5,
    effects: call => [lamports(accountAt(call, 0), accountAt(call, 1), u64At(call.data, 4))],
  },
  // authority; nonce account, recent blockhashes, rent
  {
    name: 'initialize-nonce-account',
    data: 36,
    accounts: 3,
    effects: call => [initial(powerTo('nonce.authority', accountAt(call, 0), keyAt(call.data, 4)))],
  },
  // new authority; nonce account, authority
  {
    name: 'authorize-nonce-account',
    data: 36,
    accounts: 2,
    effects: call => [powerTo('nonce.authority', accountAt(call, 0), keyAt(call.data, 4))],
  },
  // space; account. An account that holds data can no longer pay or transfer.
  {
    name: 'allocate',
    data: 12,
    accounts: 1,
    effects: call => [powerTo('system.data', accountAt(call, 0), undefined)],
  },
  // base, seed, space, owner; account, base
  {
    name: 'allocate-with-seed',
    data: data => endOfString(data, 36) === data.length - 40,
    accounts: 2,
    effects: call => [
      powerTo('system.data', accountAt(call, 0), undefined),
      handOver(call, call.data.length - 32),
    ],
  },
  // base, seed, owner; account, base
  {
    name: 'assign-with-seed',
    data: data => endOfString(data, 36) === data.length - 32,
    accounts: 2,
    effects: call => [handOver(call, call.data.length - 32)],
  },
  // lamports, seed, owner of the derived account; from, base, to
  {
    name: 'transfer-with-seed',
    data: data => endOfString(data, 12) === data.length - 32,
    accounts: 3,
    effects: call => [lamports(accountAt(call, 0), accountAt(call, 2), u64At(call.data, 4))],
  },
  // nonce account
  { name: 'upgrade-nonce-account', data: 4, accounts: 1 },
  // lamports, space, owner; new account, payer. The account may have lamports, so power over them is handed on;
  // without lamports to pay there need not be a payer.
  {
    name: 'create-account-allow-prefund',
    data: 52,
    accounts: 1,
    effects: call => {
      const handedOver = powerTo('system.owner', accountAt(call, 0), keyAt(call.data, 20));
      if (call.accounts.length >= 2) return [...creation(call, 1, 0, 4), handedOver];
      return u64At(call.data, 4) === 0n ? [made(call, 0, 4), handedOver] : undefined;
    },
  },
];

const shapes = shapesOf('system', list);

export const system: Program = {
  id: programKey('system'),
  decode: call => decodeBy(call.data.length < 4 ? undefined : shapes.get(u32At(call.data, 0)), call),
};

/** Fields: lamports, space, owner. */
const creation = (call: Call, payer: number, account: number, fields: number) => [
  lamports(accountAt(call, payer), accountAt(call, account), u64At(call.data, fields)),
  made(call, account, fields),
];

const made = (call: Call, account: number, fields: number) =>
  ({
    kind: 'create-account',
    account: accountAt(call, account),
    owner: keyAt(call.data, fields + 16),
    space: u64At(call.data, fields + 8),
  }) as const;

const handOver = (call: Call, owner: number) =>
  powerTo('system.owner', accountAt(call, 0), keyAt(call.data, owner));
