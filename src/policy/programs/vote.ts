import type { Effect } from '../facts.ts';
import { programKey } from '../named-programs.ts';
import {
  accountAt,
  type Call,
  decodeBy,
  endOfString,
  initial,
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

/** A validator's votes and towers: they change the vote account's history, and nothing else. */
const votes = (name: string): Shape => ({ name, data: () => true, accounts: 2 });

/**
 * The vote program: `VoteInstruction` of solana-vote-interface, in bincode. Which authority is meant stands in four
 * bytes; a third kind, the voter with a BLS key, has 144 bytes of key and proof behind it.
 */
const list: readonly Shape[] = [
  // identity, voter, withdrawer, commission; vote account, rent, clock, identity
  {
    name: 'initialize-account',
    data: 101,
    accounts: 4,
    effects: call => [
      initial(powerTo('vote.identity', accountAt(call, 0), keyAt(call.data, 4))),
      initial(powerTo('vote.voter', accountAt(call, 0), keyAt(call.data, 36))),
      initial(powerTo('vote.withdrawer', accountAt(call, 0), keyAt(call.data, 68))),
    ],
  },
  // new authority, which one; vote account, clock, authority
  {
    name: 'authorize',
    data: data => endOfKind(data, 36) === data.length,
    accounts: 3,
    effects: call => authorised(call, 36, keyAt(call.data, 4)),
  },
  votes('vote'),
  // lamports; vote account, recipient, withdrawer
  {
    name: 'withdraw',
    data: 12,
    accounts: 3,
    effects: call => [lamports(accountAt(call, 0), accountAt(call, 1), u64At(call.data, 4))],
  },
  // vote account, identity, withdrawer
  {
    name: 'update-validator-identity',
    data: 4,
    accounts: 3,
    effects: call => [powerToAccount('vote.identity', accountAt(call, 0), accountAt(call, 1))],
  },
  // commission; vote account, withdrawer
  { name: 'update-commission', data: 5, accounts: 2 },
  votes('vote-switch'),
  // which authority; vote account, clock, authority, new authority
  {
    name: 'authorize-checked',
    data: data => endOfKind(data, 4) === data.length,
    accounts: 4,
    effects: call => authorisedAccount(call, 4),
  },
  votes('update-vote-state'),
  votes('update-vote-state-switch'),
  // which authority, owner and seed of the derived key, new authority; vote account, clock, base
  {
    name: 'authorize-with-seed',
    data: data => endOfString(data, endOfKind(data, 4) + 32) === data.length - 32,
    accounts: 3,
    effects: call => authorised(call, 4, keyAt(call.data, call.data.length - 32)),
  },
  // which authority, owner and seed of the derived key; vote account, clock, base, new authority
  {
    name: 'authorize-checked-with-seed',
    data: data => endOfString(data, endOfKind(data, 4) + 32) === data.length,
    accounts: 4,
    effects: call => authorisedAccount(call, 4),
  },
  votes('compact-update-vote-state'),
  votes('compact-update-vote-state-switch'),
  votes('tower-sync'),
  votes('tower-sync-switch'),
  opaque('initialize-account-v2'), // its fields have not settled
  // which revenue; vote account, new collector, withdrawer
  {
    name: 'update-commission-collector',
    data: 8,
    accounts: 3,
    effects: call => {
      const power = collectors[u32At(call.data, 4)];
      return power && [powerToAccount(power, accountAt(call, 0), accountAt(call, 1))];
    },
  },
  // basis points, which revenue; vote account, withdrawer
  { name: 'update-commission-bps', data: 10, accounts: 2 },
  opaque('deposit-delegator-rewards'),
];

const shapes = shapesOf('vote', list);

export const vote: Program = {
  id: programKey('vote'),
  decode: call => decodeBy(call.data.length < 4 ? undefined : shapes.get(u32At(call.data, 0)), call),
};

// VoteAuthorize and CommissionKind, in their order.
const authorities = ['vote.voter', 'vote.withdrawer', 'vote.voter'] as const;
const collectors = ['vote.inflation-collector', 'vote.block-revenue-collector'] as const;
const voterWithBls = 2;

const endOfKind = (data: Uint8Array, at: number): number =>
  at + 4 + (u32At(data, at) === voterWithBls ? 144 : 0);

function authorised(call: Call, which: number, key: Uint8Array): readonly Effect[] | undefined {
  const power = authorities[u32At(call.data, which)];
  return power && [powerTo(power, accountAt(call, 0), key)];
}

function authorisedAccount(call: Call, which: number): readonly Effect[] | undefined {
  const power = authorities[u32At(call.data, which)];
  return power && [powerToAccount(power, accountAt(call, 0), accountAt(call, 3))];
}
