import { programKey } from '../named-programs.ts';
import { decodeBy, type Program, shapesOf } from './instruction.ts';

/** The programs that only verify signatures, which stand in the data. What they cost is in the fees. */
const precompile = (name: string): Program => {
  const verify = shapesOf(name, [{ name: 'verify', data: () => true, accounts: 0 }]).get(0);
  return { id: programKey(name), decode: call => decodeBy(verify, call) };
};

export const precompiles: readonly Program[] = ['ed25519', 'secp256k1', 'secp256r1'].map(precompile);
