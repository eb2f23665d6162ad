import { isKeyAt } from '../../solana/public-key.ts';
import type { Account, Effect } from '../facts.ts';
import { programKey } from '../named-programs.ts';
import {
  accountAt,
  type Call,
  decodeBy,
  lamports,
  type Program,
  rent_lamports,
  shapesOf,
} from './instruction.ts';
import { token } from './token.ts';
import { token2022 } from './token-2022.ts';

/**
 * The associated token account program: one byte, and no byte for the first instruction. A successful one proves
 * that the account is the wallet's own for the mint, since the program derives the address itself.
 *
 * Idempotent or not, an account that is there already, or that holds lamports, costs less than the effect says.
 */
const creation = {
  data: (data: Uint8Array): boolean => data.length <= 1,
  // payer, associated account, wallet, mint, system program, token program
  accounts: 6,
  effects: create,
};

const shapes = shapesOf('associated-token', [
  { name: 'create', ...creation },
  { name: 'create-idempotent', ...creation },
  // the nested account (one whose owner is an associated account), its mint, the wallet's account for that mint,
  // the wallet's account that owns it, the mint of that one, wallet, token program
  { name: 'recover-nested', data: 1, accounts: 7, effects: recoverNested },
]);

export const associatedToken: Program = {
  id: programKey('associated-token'),
  decode: call => decodeBy(shapes.get(call.data[0] ?? 0), call),
};

// The most that Token-2022 puts into a new associated account: type of account, ImmutableOwner, TransferFeeAmount,
// NonTransferableAccount, TransferHookAccount, PausableAccount. SPL Token's have 165 bytes.
const token_bytes = 165;
const token2022_bytes = 165 + 1 + 4 + 12 + 4 + 5 + 4;

function create(call: Call): readonly Effect[] | undefined {
  const program = tokenProgramAt(call, 5);
  if (program === undefined) return undefined;
  const space_bytes = program.name === 'token' ? token_bytes : token2022_bytes;
  const account = accountAt(call, 1);
  return [
    lamports(accountAt(call, 0), account, rent_lamports(space_bytes)),
    {
      kind: 'create-account',
      account,
      owner: program.id,
      space: BigInt(space_bytes),
      associated: { wallet: accountAt(call, 2), mint: accountAt(call, 3) },
    },
  ];
}

function recoverNested(call: Call): readonly Effect[] | undefined {
  const program = tokenProgramAt(call, 6);
  if (program === undefined) return undefined;
  const nested = accountAt(call, 0);
  const wallet = accountAt(call, 5);
  return [
    {
      kind: 'tokens',
      program: program.name,
      mint: accountAt(call, 1),
      decimals: undefined,
      from: nested,
      to: accountAt(call, 2),
      authority: wallet,
      amount: 'all',
    },
    lamports(nested, wallet, 'all'),
  ];
}

// The program calls whatever stands here, so another one may do anything.
function tokenProgramAt(call: Call, index: number) {
  const { key }: Account = accountAt(call, index);
  if (key === undefined) return undefined;
  if (isKeyAt(key, 0, token.id)) return { name: 'token', id: token.id } as const;
  if (isKeyAt(key, 0, token2022.id)) return { name: 'token-2022', id: token2022.id } as const;
  return undefined;
}
