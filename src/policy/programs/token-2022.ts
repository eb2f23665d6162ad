import type { Account, Effect } from '../facts.ts';
import { programKey } from '../named-programs.ts';
import {
  accountAt,
  type Call,
  initial,
  isZero,
  keyAt,
  lamports,
  opaque,
  type Program,
  powerTo,
  rent_lamports,
  type Shape,
  type Shapes,
  shapesOf,
  u64At,
} from './instruction.ts';
import type { Power } from './powers.ts';
import { decodeToken, hasOptionalKeyAt, mayCallHook, optionalKeyAt, tokenShapes } from './token.ts';

/**
 * Token-2022: what it shares with SPL Token, and its extensions, `TokenInstruction` 25 to 46 of
 * spl-token-2022-interface. Most extensions have instructions of their own, whose number is the second byte.
 *
 * Confidential transfers hide what they move, and so they are not understood; neither are the instructions of the
 * metadata and group interfaces, which begin with eight bytes of a hash.
 */
const transferFee: readonly Shape[] = [
  // two optional authorities, basis points, largest fee; mint
  {
    name: 'initialize-transfer-fee-config',
    data: data => {
      const second = secondOption(data);
      return [0, 1].includes(data[second] ?? 2) && data.length === second + (data[second] === 1 ? 43 : 11);
    },
    accounts: 1,
    effects: call => [
      ...given(call, 'token.transfer-fee-config', optionalKeyAt(call.data, 2)),
      ...given(call, 'token.withheld-withdraw', optionalKeyAt(call.data, secondOption(call.data))),
    ],
  },
  // amount, decimals, fee (which the amount includes); source, mint, destination, authority
  {
    name: 'transfer-checked-with-fee',
    data: 19,
    accounts: 4,
    doubt: mayCallHook('token-2022', 4),
    effects: call => [
      {
        ...withheld(call, 1, accountAt(call, 0), 2, 3),
        decimals: call.data[10],
        amount: u64At(call.data, 2),
      },
    ],
  },
  // mint, destination, authority
  {
    name: 'withdraw-withheld-tokens-from-mint',
    data: 2,
    accounts: 3,
    effects: call => [withheld(call, 0, accountAt(call, 0), 1, 2)],
  },
  // number of sources; mint, destination, authority, its signers, sources
  {
    name: 'withdraw-withheld-tokens-from-accounts',
    data: 3,
    accounts: 3,
    effects: call => {
      const from = call.accounts.length - (call.data[2] ?? 0);
      if (from < 3) return undefined;
      return call.accounts.slice(from).map(source => withheld(call, 0, source, 1, 2));
    },
  },
  // mint, sources: anybody may collect withheld fees into their mint
  { name: 'harvest-withheld-tokens-to-mint', data: 2, accounts: 1 },
  // basis points, largest fee; mint, authority
  { name: 'set-transfer-fee', data: 12, accounts: 2 },
];

const extensions: ReadonlyMap<number, Shapes> = new Map(
  Object.entries<readonly Shape[]>({
    26: transferFee,
    // state; mint, and for the change its freeze authority
    28: [plain('initialize-default-account-state', 3, 1), plain('update-default-account-state', 3, 2)],
    // account, owner
    30: [plain('enable-memo-transfers', 2, 2), plain('disable-memo-transfers', 2, 2)],
    // authority and rate, or a rate; mint, authority
    33: [
      initialises('interest-bearing-mint', 36, 'token.interest-rate'),
      plain('update-interest-rate', 4, 2),
    ],
    // account, owner
    34: [plain('enable-cpi-guard', 2, 2), plain('disable-cpi-guard', 2, 2)],
    36: [
      // authority, program that each transfer is to call; mint
      {
        name: 'initialize-transfer-hook',
        data: 66,
        accounts: 1,
        effects: call => [
          ...given(call, 'token.transfer-hook-program', keyOrNone(call.data, 2)),
          ...given(call, 'token.transfer-hook', keyOrNone(call.data, 34)),
        ],
      },
      // program; mint, authority
      {
        name: 'update-transfer-hook',
        data: 34,
        accounts: 2,
        effects: call => [powerTo('token.transfer-hook', accountAt(call, 0), keyOrNone(call.data, 2))],
      },
    ],
    // authority and address, or an address; mint or account, authority
    39: [
      initialises('metadata-pointer', 66, 'token.metadata-pointer'),
      plain('update-metadata-pointer', 34, 2),
    ],
    40: [initialises('group-pointer', 66, 'token.group-pointer'), plain('update-group-pointer', 34, 2)],
    41: [
      initialises('group-member-pointer', 66, 'token.group-member-pointer'),
      plain('update-group-member-pointer', 34, 2),
    ],
    // authority and multiplier, or a multiplier and when it begins; mint, authority
    43: [
      initialises('scaled-ui-amount', 42, 'token.scaled-ui-amount'),
      plain('update-scaled-ui-amount', 18, 2),
    ],
    // authority, or nothing; mint, authority
    44: [initialises('pausable', 34, 'token.pause'), plain('pause', 2, 2), plain('resume', 2, 2)],
  }).map(([tag, list]) => [Number(tag), shapesOf('token-2022', list)]),
);

const withoutNumber = shapesOf('token-2022', [
  ...new Array<undefined>(25),
  // optional authority; mint
  {
    name: 'initialize-mint-close-authority',
    data: hasOptionalKeyAt(1),
    accounts: 1,
    effects: call => given(call, 'token.close-mint', optionalKeyAt(call.data, 1)),
  },
  undefined,
  opaque('confidential-transfer'),
  undefined,
  // extensions of two bytes each; account, payer, system program, owner
  {
    name: 'reallocate',
    data: data => data.length % 2 === 1,
    accounts: 4,
    effects: call => {
      const space_bytes = extensionSpace_bytes(call.data.subarray(1));
      if (space_bytes === undefined) return undefined;
      const rent = rent_lamports(space_bytes) - rent_lamports(0);
      return [lamports(accountAt(call, 1), accountAt(call, 0), rent)];
    },
  },
  undefined,
  // payer, mint of wrapped SOL (82 bytes, once and for all), system program
  {
    name: 'create-native-mint',
    data: 1,
    accounts: 3,
    effects: call => [lamports(accountAt(call, 0), accountAt(call, 1), rent_lamports(82))],
  },
  // mint
  plain('initialize-non-transferable-mint', 1, 1),
  undefined,
  undefined,
  // delegate; mint
  {
    name: 'initialize-permanent-delegate',
    data: 33,
    accounts: 1,
    effects: call => given(call, 'token.permanent-delegate', keyAt(call.data, 1)),
  },
  undefined,
  opaque('confidential-transfer-fee'),
  undefined,
  undefined,
  undefined,
  undefined,
  opaque('confidential-mint-burn'),
  undefined,
  undefined,
  undefined,
  opaque('permissioned-burn'),
]);

const shared = tokenShapes('token-2022');

export const token2022: Program = {
  id: programKey('token-2022'),
  decode: call => decodeToken('token-2022', shapeOf, call),
};

function shapeOf(data: Uint8Array): Shape | undefined {
  const tag = data[0] ?? -1;
  return shared.get(tag) ?? withoutNumber.get(tag) ?? extensions.get(tag)?.get(data[1] ?? -1);
}

function plain(name: string, data_bytes: number, accounts: number): Shape {
  return { name, data: data_bytes, accounts };
}

/** The authority stands behind the two numbers, zeros for none; mint. */
function initialises(extension: string, data_bytes: number, power: Power): Shape {
  return {
    name: `initialize-${extension}`,
    data: data_bytes,
    accounts: 1,
    effects: call => given(call, power, keyOrNone(call.data, 2)),
  };
}

const given = (call: Call, power: Power, key: Uint8Array | undefined): readonly Effect[] =>
  key ? [initial(powerTo(power, accountAt(call, 0), key))] : [{ kind: 'other' }];

/** Tokens whose number the bytes do not say. */
const withheld = (call: Call, mint: number, from: Account, to: number, authority: number) =>
  ({
    kind: 'tokens',
    program: 'token-2022',
    mint: accountAt(call, mint),
    decimals: undefined as number | undefined,
    from,
    to: accountAt(call, to),
    authority: accountAt(call, authority),
    amount: 'all' as bigint | 'all',
  }) as const;

const secondOption = (data: Uint8Array): number => (data[2] === 1 ? 35 : data[2] === 0 ? 3 : data.length);

function keyOrNone(data: Uint8Array, at: number): Uint8Array | undefined {
  const key = keyAt(data, at);
  return isZero(key) ? undefined : key;
}

// ExtensionType of spl-token-2022-interface, those of token accounts: what an account grows by for each, and four
// bytes of type and length. The first extension of an account takes one byte more, for the type of the account.
const accountExtension_bytes: ReadonlyMap<number, number> = new Map([
  [2, 8], // TransferFeeAmount
  [5, 295], // ConfidentialTransferAccount
  [7, 0], // ImmutableOwner
  [8, 1], // MemoTransfer
  [11, 1], // CpiGuard
  [13, 0], // NonTransferableAccount
  [15, 1], // TransferHookAccount
  [17, 64], // ConfidentialTransferFeeAmount
  [27, 0], // PausableAccount
]);

function extensionSpace_bytes(types: Uint8Array): number | undefined {
  let space_bytes = 1;
  for (let at = 0; at < types.length; at += 2) {
    const own = accountExtension_bytes.get((types[at] ?? 0) | ((types[at + 1] ?? 0) << 8));
    if (own === undefined) return undefined;
    space_bytes += 4 + own;
  }
  return space_bytes;
}
