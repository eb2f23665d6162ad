import { programKey } from '../named-programs.ts';
import {
  accountAt,
  decodeBy,
  initial,
  lamports,
  opaque,
  type Program,
  powerTo,
  powerToAccount,
  shapesOf,
  u32At,
} from './instruction.ts';

/**
 * The loader of programs that can be upgraded: `UpgradeableLoaderInstruction` of solana-loader-v3-interface, in
 * bincode. Whoever has power over a program has what the program has power over.
 */
const shapes = shapesOf('bpf-loader-upgradeable', [
  // buffer, authority
  {
    name: 'initialize-buffer',
    data: 4,
    accounts: 2,
    effects: call => [initial(powerToAccount('program.authority', accountAt(call, 0), accountAt(call, 1)))],
  },
  // offset, number of bytes in eight bytes, bytes; buffer, authority
  {
    name: 'write',
    data: data => u32At(data, 12) === 0 && data.length === 16 + u32At(data, 8),
    accounts: 2,
  },
  opaque('deploy-with-max-data-len'),
  // program data, program, buffer, recipient of the buffer's lamports, rent, clock, authority
  {
    name: 'upgrade',
    data: 4,
    accounts: 7,
    effects: call => [
      powerToAccount('program.code', accountAt(call, 1), accountAt(call, 2)),
      lamports(accountAt(call, 2), accountAt(call, 3), 'all'),
      // What the old code had more room for goes the same way.
      lamports(accountAt(call, 0), accountAt(call, 3), 'all'),
    ],
  },
  // buffer or program data, authority, and the new one if there is to be one
  {
    name: 'set-authority',
    data: 4,
    accounts: 2,
    effects: call => [
      call.accounts.length < 3
        ? powerTo('program.authority', accountAt(call, 0), undefined)
        : powerToAccount('program.authority', accountAt(call, 0), accountAt(call, 2)),
    ],
  },
  // account, recipient, and authority and program where it has them
  {
    name: 'close',
    data: 4,
    accounts: 2,
    effects: call => [
      powerTo('program.authority', accountAt(call, 0), undefined),
      lamports(accountAt(call, 0), accountAt(call, 1), 'all'),
    ],
  },
  opaque('extend-program'),
  // buffer or program data, authority, new authority
  {
    name: 'set-authority-checked',
    data: 4,
    accounts: 3,
    effects: call => [powerToAccount('program.authority', accountAt(call, 0), accountAt(call, 2))],
  },
]);

export const bpfLoaderUpgradeable: Program = {
  id: programKey('bpf-loader-upgradeable'),
  decode: call => decodeBy(call.data.length < 4 ? undefined : shapes.get(u32At(call.data, 0)), call),
};
