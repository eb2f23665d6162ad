import { AddressMap } from '../address-map.ts';
import { addressLookupTable } from './address-lookup-table.ts';
import { associatedToken } from './associated-token.ts';
import { bpfLoaderUpgradeable } from './bpf-loader-upgradeable.ts';
import { computeBudget } from './compute-budget.ts';
import type { Program } from './instruction.ts';
import { memo, memoV1 } from './memo.ts';
import { precompiles } from './precompiles.ts';
import { stake } from './stake.ts';
import { system } from './system.ts';
import { token } from './token.ts';
import { token2022 } from './token-2022.ts';
import { vote } from './vote.ts';

/** The decoder of a program; `undefined` for a program without one. */
export const programOf = (key: Uint8Array): Program | undefined => decoders.get(key);

const decoders = new AddressMap<Program>();
for (const program of [
  system,
  token,
  token2022,
  associatedToken,
  stake,
  vote,
  memo,
  memoV1,
  computeBudget,
  addressLookupTable,
  bpfLoaderUpgradeable,
  ...precompiles,
]) {
  decoders.set(program.id, program);
}
