import type { Effect } from '../facts.ts';
import { programKey } from '../named-programs.ts';
import {
  accountAt,
  type Call,
  decodeBy,
  endOfString,
  initial,
  isZero,
  keyAt,
  lamports,
  opaque,
  type Program,
  powerTo,
  powerToAccount,
  type Shape,
  shapesOf,
  u32At,
  u64At,
} from './instruction.ts';

/**
 * The stake program: `StakeInstruction` of solana-stake-interface, in bincode. A split account has the same
 * authorities as the one that it is split from, and so have the accounts between which stake is moved or merged.
 */
const list: readonly Shape[] = [
  // staker, withdrawer, lockup (time, epoch, custodian); stake account, rent
  {
    name: 'initialize',
    data: 116,
    accounts: 2,
    effects: ({ accounts, data }) => {
      const stake = accountAt({ accounts, data }, 0);
      const powers = [
        initial(powerTo('stake.staker', stake, keyAt(data, 4))),
        initial(powerTo('stake.withdrawer', stake, keyAt(data, 36))),
      ];
      const lockup = data.subarray(68);
      return isZero(lockup)
        ? powers
        : [...powers, initial(powerTo('stake.custodian', stake, keyAt(data, 84)))];
    },
  },
  // new authority, which one; stake account, clock, authority
  {
    name: 'authorize',
    data: 40,
    accounts: 3,
    effects: call => authorised(call, 36, keyAt(call.data, 4)),
  },
  // stake account, vote account, clock, stake history, stake config (unused), staker
  {
    name: 'delegate',
    data: 4,
    accounts: 6,
    effects: call => [powerToAccount('stake.delegation', accountAt(call, 0), accountAt(call, 1))],
  },
  // lamports; stake account, new stake account, staker
  { name: 'split', data: 12, accounts: 3, effects: fromFirstToSecond },
  // lamports; stake account, recipient, clock, stake history, withdrawer
  { name: 'withdraw', data: 12, accounts: 5, effects: fromFirstToSecond },
  // stake account, clock, staker
  { name: 'deactivate', data: 4, accounts: 3 },
  // time, epoch and custodian, each optional; stake account, custodian or withdrawer
  {
    name: 'set-lockup',
    data: data => endOfOptions(data, [8, 8, 32]) === data.length,
    accounts: 2,
    effects: call => {
      const custodian = endOfOptions(call.data, [8, 8]);
      const stake = accountAt(call, 0);
      const dates = powerTo('stake.lockup', stake, undefined);
      if (call.data[custodian] !== 1) return [dates];
      return [dates, powerTo('stake.custodian', stake, keyAt(call.data, custodian + 1))];
    },
  },
  // destination, source, clock, stake history, staker
  {
    name: 'merge',
    data: 4,
    accounts: 5,
    effects: call => [lamports(accountAt(call, 1), accountAt(call, 0), 'all')],
  },
  // new authority, which one, seed, owner of the derived key; stake account, base, clock
  {
    name: 'authorize-with-seed',
    data: data => endOfString(data, 40) === data.length - 32,
    accounts: 3,
    effects: call => authorised(call, 36, keyAt(call.data, 4)),
  },
  // stake account, rent, staker, withdrawer
  {
    name: 'initialize-checked',
    data: 4,
    accounts: 4,
    effects: call => [
      initial(powerToAccount('stake.staker', accountAt(call, 0), accountAt(call, 2))),
      initial(powerToAccount('stake.withdrawer', accountAt(call, 0), accountAt(call, 3))),
    ],
  },
  // which authority; stake account, clock, authority, new authority
  { name: 'authorize-checked', data: 8, accounts: 4, effects: call => authorisedAccount(call, 4) },
  // which authority, seed, owner of the derived key; stake account, base, clock, new authority
  {
    name: 'authorize-checked-with-seed',
    data: data => endOfString(data, 8) === data.length - 32,
    accounts: 4,
    effects: call => authorisedAccount(call, 4),
  },
  // time and epoch, each optional; stake account, custodian or withdrawer, and perhaps a new custodian
  {
    name: 'set-lockup-checked',
    data: data => endOfOptions(data, [8, 8]) === data.length,
    accounts: 2,
    effects: call => {
      const stake = accountAt(call, 0);
      const dates = powerTo('stake.lockup', stake, undefined);
      if (call.accounts.length < 3) return [dates];
      return [dates, powerToAccount('stake.custodian', stake, accountAt(call, 2))];
    },
  },
  { name: 'get-minimum-delegation', data: 4, accounts: 0 },
  // stake account, delinquent vote account, reference vote account
  { name: 'deactivate-delinquent', data: 4, accounts: 3 },
  opaque('redelegate'), // never enabled
  // lamports; source, destination, staker
  { name: 'move-stake', data: 12, accounts: 3, effects: fromFirstToSecond },
  { name: 'move-lamports', data: 12, accounts: 3, effects: fromFirstToSecond },
];

const shapes = shapesOf('stake', list);

export const stake: Program = {
  id: programKey('stake'),
  decode: call => decodeBy(call.data.length < 4 ? undefined : shapes.get(u32At(call.data, 0)), call),
};

// StakeAuthorize, in its order.
const authorities = ['stake.staker', 'stake.withdrawer'] as const;

function authorised(call: Call, which: number, key: Uint8Array): readonly Effect[] | undefined {
  const power = authorities[u32At(call.data, which)];
  return power && [powerTo(power, accountAt(call, 0), key)];
}

function authorisedAccount(call: Call, which: number): readonly Effect[] | undefined {
  const power = authorities[u32At(call.data, which)];
  return power && [powerToAccount(power, accountAt(call, 0), accountAt(call, 3))];
}

function fromFirstToSecond(call: Call): readonly Effect[] {
  return [lamports(accountAt(call, 0), accountAt(call, 1), u64At(call.data, 4))];
}

/** Behind options of these sizes, each a byte that says whether it is there; -1 when they do not fit. */
function endOfOptions(data: Uint8Array, sizes_bytes: readonly number[]): number {
  let at = 4;
  for (const size_bytes of sizes_bytes) {
    const present = data[at];
    if (present !== 0 && present !== 1) return -1;
    at += 1 + present * size_bytes;
  }
  return at <= data.length ? at : -1;
}
