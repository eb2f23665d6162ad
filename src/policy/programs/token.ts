import type { Account, Effect } from '../facts.ts';
import { programKey } from '../named-programs.ts';
import {
  accountAt,
  type Call,
  type Decoded,
  decodeBy,
  initial,
  keyAt,
  lamports,
  type Program,
  powerTo,
  powerToAccount,
  type Shape,
  type Shapes,
  shapesOf,
  u64At,
} from './instruction.ts';
import { splitBatch } from './token-batch.ts';

/**
 * SPL Token, and the part of it that Token-2022 shares: `TokenInstruction` of spl-token-interface, one byte and then
 * packed fields. Signers of a multisignature authority follow the accounts named here.
 *
 * A transfer of wrapped SOL moves the lamports too. `transfer` does not say which mint it moves, `transfer-checked`
 * does; neither says whose the accounts are.
 */
export type TokenProgram = 'token' | 'token-2022';

/** AuthorityType, in its order; the first four are those of SPL Token, the others of Token-2022's extensions. */
const authorities = [
  'token.mint',
  'token.freeze',
  'token.owner',
  'token.close',
  'token.transfer-fee-config',
  'token.withheld-withdraw',
  'token.close-mint',
  'token.interest-rate',
  'token.permanent-delegate',
  'token.confidential-transfer-mint',
  'token.transfer-hook-program',
  'token.confidential-transfer-fee-config',
  'token.metadata-pointer',
  'token.group-pointer',
  'token.group-member-pointer',
  'token.scaled-ui-amount',
  'token.pause',
  'token.permissioned-burn',
] as const;

/** Shapes 0 to 24, and those that came to both programs later (38, 45). */
export function tokenShapes(program: TokenProgram): Shapes {
  const shapes = new Map(shapesOf(program, baseList(program)));
  shapes.set(38, {
    name: `${program}.withdraw-excess-lamports`, // all beyond the rent: source, destination, authority
    data: 1,
    accounts: 3,
    effects: call => [lamports(accountAt(call, 0), accountAt(call, 1), 'all')],
  });
  shapes.set(45, {
    name: `${program}.unwrap-lamports`, // of wrapped SOL, an amount or all: source, destination, authority
    data: data => (data[1] === 0 ? data.length === 2 : data[1] === 1 && data.length === 10),
    accounts: 3,
    effects: call => [
      lamports(accountAt(call, 0), accountAt(call, 1), call.data[1] === 0 ? 'all' : u64At(call.data, 2)),
    ],
  });
  return shapes;
}

/** Decodes by the shape that the data has, and a batch (255) as what is in it. */
export function decodeToken(
  program: TokenProgram,
  shapeOf: (data: Uint8Array) => Shape | undefined,
  call: Call,
): Decoded {
  if (call.data[0] !== 255) return decodeBy(shapeOf(call.data), call);
  const parts = splitBatch(call)?.map(part => decodeBy(shapeOf(part.data), part)) ?? [];
  return {
    name: `${program}.batch`,
    understood: parts.length > 0 && parts.every(part => part.understood),
    effects: parts.flatMap(part => part.effects),
  };
}

/** Token-2022 hands the accounts behind the four to the mint's transfer hook, signatures of others included. */
export const mayCallHook =
  (program: TokenProgram, accounts: number) =>
  (call: Call): boolean =>
    program === 'token-2022' && call.accounts.slice(accounts).some(account => !account.signer);

/** Whether an optional key stands at `at`, absent or present, with nothing behind it. */
export const hasOptionalKeyAt =
  (at: number) =>
  (data: Uint8Array): boolean => {
    if (data[at] === 1) return data.length === at + 33;
    if (data[at] !== 0) return false;
    // Some clients leave the room for the key, in zeros.
    return data.length === at + 1 || (data.length === at + 33 && data.subarray(at).every(byte => byte === 0));
  };

export const optionalKeyAt = (data: Uint8Array, at: number): Uint8Array | undefined =>
  data[at] === 1 ? keyAt(data, at + 1) : undefined;

function baseList(program: TokenProgram): readonly Shape[] {
  const tokens = (
    call: Call,
    mint: Account | undefined,
    from: Account | undefined,
    to: Account | undefined,
    authority: number,
  ): readonly Effect[] => [
    {
      kind: 'tokens',
      program,
      mint,
      decimals: call.data.length === 10 ? call.data[9] : undefined,
      from,
      to,
      authority: accountAt(call, authority),
      amount: u64At(call.data, 1),
    },
  ];
  const transfer = (call: Call) => tokens(call, undefined, accountAt(call, 0), accountAt(call, 1), 2);
  const transferChecked = (call: Call) =>
    tokens(call, accountAt(call, 1), accountAt(call, 0), accountAt(call, 2), 3);
  const mintTo = (call: Call) => tokens(call, accountAt(call, 0), undefined, accountAt(call, 1), 2);
  const burn = (call: Call) => tokens(call, accountAt(call, 1), accountAt(call, 0), undefined, 2);
  const types = program === 'token' ? 4 : authorities.length;

  return [
    // mint, rent
    { name: 'initialize-mint', data: hasOptionalKeyAt(34), accounts: 2, effects: mintPowers },
    // account, mint, owner, rent
    {
      name: 'initialize-account',
      data: 1,
      accounts: 4,
      effects: call => [initial(powerToAccount('token.owner', accountAt(call, 0), accountAt(call, 2)))],
    },
    // multisignature account, rent, signers
    { name: 'initialize-multisig', data: 2, accounts: 3, effects: call => multisigPowers(call, 2) },
    // source, destination, authority
    { name: 'transfer', data: 9, accounts: 3, effects: transfer, doubt: mayCallHook(program, 3) },
    // source, delegate, owner
    { name: 'approve', data: 9, accounts: 3, effects: call => approval(call, 1) },
    // source, owner
    {
      name: 'revoke',
      data: 1,
      accounts: 2,
      effects: call => [powerTo('token.delegate', accountAt(call, 0), undefined)],
    },
    // account or mint, authority
    {
      name: 'set-authority',
      data: hasOptionalKeyAt(2),
      accounts: 2,
      effects: call => {
        const type = call.data[1] ?? types;
        const power = type < types ? authorities[type] : undefined;
        return power && [powerTo(power, accountAt(call, 0), optionalKeyAt(call.data, 2))];
      },
    },
    // mint, account, authority
    { name: 'mint-to', data: 9, accounts: 3, effects: mintTo },
    // account, mint, authority
    { name: 'burn', data: 9, accounts: 3, effects: burn },
    // account, destination, authority; of wrapped SOL, the balance goes along
    {
      name: 'close-account',
      data: 1,
      accounts: 3,
      effects: call => [lamports(accountAt(call, 0), accountAt(call, 1), 'all')],
    },
    // account, mint, authority
    { name: 'freeze-account', data: 1, accounts: 3 },
    { name: 'thaw-account', data: 1, accounts: 3 },
    // source, mint, destination, authority
    {
      name: 'transfer-checked',
      data: 10,
      accounts: 4,
      effects: transferChecked,
      doubt: mayCallHook(program, 4),
    },
    // source, mint, delegate, owner
    { name: 'approve-checked', data: 10, accounts: 4, effects: call => approval(call, 2) },
    { name: 'mint-to-checked', data: 10, accounts: 3, effects: mintTo },
    { name: 'burn-checked', data: 10, accounts: 3, effects: burn },
    // account, mint, rent
    { name: 'initialize-account2', data: 33, accounts: 3, effects: ownerInData },
    // wrapped SOL account
    { name: 'sync-native', data: 1, accounts: 1 },
    // account, mint
    { name: 'initialize-account3', data: 33, accounts: 2, effects: ownerInData },
    // multisignature account, signers
    { name: 'initialize-multisig2', data: 2, accounts: 2, effects: call => multisigPowers(call, 1) },
    // mint
    { name: 'initialize-mint2', data: hasOptionalKeyAt(34), accounts: 1, effects: mintPowers },
    // mint; extensions of two bytes each
    { name: 'get-account-data-size', data: data => data.length % 2 === 1, accounts: 1 },
    // account
    { name: 'initialize-immutable-owner', data: 1, accounts: 1 },
    // mint
    { name: 'amount-to-ui-amount', data: 9, accounts: 1 },
    { name: 'ui-amount-to-amount', data: () => true, accounts: 1 },
  ];
}

const approval = (call: Call, delegate: number): readonly Effect[] => [
  {
    ...powerToAccount('token.delegate', accountAt(call, 0), accountAt(call, delegate)),
    limit: u64At(call.data, 1),
  },
];

function mintPowers(call: Call): readonly Effect[] {
  const mint = accountAt(call, 0);
  const freeze = optionalKeyAt(call.data, 34);
  const effects = [initial(powerTo('token.mint', mint, keyAt(call.data, 2)))];
  return freeze ? [...effects, initial(powerTo('token.freeze', mint, freeze))] : effects;
}

const ownerInData = (call: Call): readonly Effect[] => [
  initial(powerTo('token.owner', accountAt(call, 0), keyAt(call.data, 1))),
];

const multisigPowers = (call: Call, from: number): readonly Effect[] =>
  call.accounts
    .slice(from)
    .map(signer => initial(powerToAccount('token.multisig', accountAt(call, 0), signer)));

const shapes = tokenShapes('token');

export const token: Program = {
  id: programKey('token'),
  decode: call => decodeToken('token', data => shapes.get(data[0] ?? -1), call),
};
