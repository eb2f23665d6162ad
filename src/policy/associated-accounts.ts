import { createHash } from 'node:crypto';
import { decodesOnCurve } from '../foundation/ed25519.ts';
import { associatedTokenProgram, tokenPrograms } from './named-programs.ts';

/**
 * The token accounts that wallets send to when they are given an owner's address: one for each token program.
 * Costs milliseconds the first time; for policies as they are compiled, never per signature.
 */
export function associatedAccounts(owner: Uint8Array, mint: Uint8Array): readonly Uint8Array[] {
  const name = Buffer.concat([owner, mint]).toString('latin1');
  const known = derived.get(name);
  if (known) return known;
  const accounts = tokenPrograms.map(program =>
    programAddress([owner, program, mint], associatedTokenProgram),
  );
  if (derived.size >= derived_max) derived.clear();
  derived.set(name, accounts);
  return accounts;
}

// A policy is compiled when it is checked and again when it comes into force: derived once.
const derived = new Map<string, readonly Uint8Array[]>();
const derived_max = 4_096;

// Solana's find_program_address: the first hash, counting the bump down, that is no point of the curve.
function programAddress(seeds: readonly Uint8Array[], program: Uint8Array): Uint8Array {
  for (let bump = 255; bump >= 0; bump -= 1) {
    const hash = createHash('sha256');
    for (const seed of seeds) hash.update(seed);
    hash.update(Uint8Array.of(bump)).update(program).update('ProgramDerivedAddress');
    const address = new Uint8Array(hash.digest());
    if (!decodesOnCurve(address)) return address;
  }
  throw new RangeError('No bump gives a program address.'); // one in 2^256
}
