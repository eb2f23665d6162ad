import type { Effect } from '../facts.ts';
import { programKey } from '../named-programs.ts';
import {
  accountAt,
  type Call,
  decodeBy,
  initial,
  lamports,
  type Program,
  powerTo,
  powerToAccount,
  rent_lamports,
  shapesOf,
  u32At,
} from './instruction.ts';

/** The address lookup table program: `ProgramInstruction` of solana-address-lookup-table-interface, in bincode. */
const shapes = shapesOf('address-lookup-table', [
  // recent slot, bump; table, authority, payer, system program
  {
    name: 'create',
    data: 13,
    accounts: 4,
    effects: call => [
      lamports(accountAt(call, 2), accountAt(call, 0), rent_lamports(header_bytes)),
      {
        kind: 'create-account',
        account: accountAt(call, 0),
        owner: addressLookupTable.id,
        space: BigInt(header_bytes),
      },
      initial(powerToAccount('table.authority', accountAt(call, 0), accountAt(call, 1))),
    ],
  },
  // table, authority
  {
    name: 'freeze',
    data: 4,
    accounts: 2,
    effects: call => [powerTo('table.authority', accountAt(call, 0), undefined)],
  },
  // number of addresses in eight bytes, addresses; table, authority, and payer and system program where the table
  // has not the rent already
  {
    name: 'extend',
    data: data => u32At(data, 8) === 0 && data.length === 12 + u32At(data, 4) * 32,
    accounts: 2,
    effects: extension,
  },
  // table, authority
  { name: 'deactivate', data: 4, accounts: 2 },
  // table, authority, recipient
  {
    name: 'close',
    data: 4,
    accounts: 3,
    effects: call => [lamports(accountAt(call, 0), accountAt(call, 2), 'all')],
  },
]);

export const addressLookupTable: Program = {
  id: programKey('address-lookup-table'),
  decode: call => decodeBy(call.data.length < 4 ? undefined : shapes.get(u32At(call.data, 0)), call),
};

const header_bytes = 56;

function extension(call: Call): readonly Effect[] {
  if (call.accounts.length < 3) return [{ kind: 'other' }];
  const rent = rent_lamports(u32At(call.data, 4) * 32) - rent_lamports(0);
  return [lamports(accountAt(call, 2), accountAt(call, 0), rent)];
}
