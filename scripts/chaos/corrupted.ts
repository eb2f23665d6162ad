import type { Fault } from '../../test/engines/pkcs11/faulty/faulty.ts';
import { type Chaos, exactly, type Figure, type Scenario, told } from './figure.ts';
import { House, tokenLabel } from './house.ts';
import { failuresOf, Signer, type Signing, signedOf } from './signing.ts';
import { Trail } from './trail.ts';

/**
 * A token that signs wrongly: a flipped bit, another message, another key; of signatures that are alone, and of
 * others among many. The client asks once, so that nothing is hidden by a repetition.
 */
export const corrupted: Scenario = {
  name: 'corrupted',
  what: 'corrupted and foreign signatures of the token',
  async run({ short, stack, progress, note }: Chaos): Promise<readonly Figure[]> {
    const count = short ? 40 : 500;
    const house = await House.start(stack, { withoutCanary: true });
    const client = house.client({ retries: 0 });
    const publicKey = await house.auditKey(client);
    await client.keys.generate('other', 'main'); // whose signatures are the foreign ones
    const signer = new Signer(client, house);
    const seen: Signing[] = [];
    let injected = 0;
    for (const [at, kind] of kinds.entries()) {
      for (const lanes of [1, 16]) {
        const times = share(count, at * 2 + (lanes === 1 ? 0 : 1));
        const fault = house.faulty.inject({ ...kind, token: tokenLabel, times } as Fault);
        for (let round = 0; fault.count().fired < times && round < rounds_max + times; round += 1) {
          seen.push(...(await signer.sign(`corrupted-${at}-${lanes}-${round}`, 2 * lanes, lanes)));
          progress(`${injected + fault.count().fired} of ${count} injected`);
        }
        injected += fault.count().fired;
        fault.withdraw();
      }
    }
    const after = await signer.sign('corrupted-after', works, 8);
    await house.stop();
    const trail = await Trail.read(house.auditFolder, publicKey, note);
    const failures = failuresOf(seen);
    const { SIGNATURE_WITHHELD: withheld = 0 } = failures;
    return [
      exactly('corrupted_injected', 'wrong signatures that the token made', injected, count),
      exactly('corrupted_withheld', 'of these answered with SIGNATURE_WITHHELD', withheld, injected),
      exactly('corrupted_released', 'signatures that were released and do not verify', signer.wrong, 0),
      exactly(
        'corrupted_recorded',
        'of these in the audit log',
        trail.codes.SIGNATURE_WITHHELD ?? 0,
        injected,
      ),
      exactly('corrupted_works_after', 'signatures made afterwards', signedOf(after).length, works),
      exactly('corrupted_log_findings', 'what is wrong with the audit log', trail.findings, 0),
      told('corrupted_right_between', 'right signatures that were released meanwhile', signedOf(seen).length),
      ...Object.entries(failures)
        .filter(([code]) => code !== 'SIGNATURE_WITHHELD')
        .map(([code, times]) => told(`corrupted_ended_${code}`, `requests that ended with ${code}`, times)),
    ];
  },
};

const kinds: readonly Partial<Fault>[] = [
  { on: 'C_Sign', effect: 'corrupt' },
  { on: 'C_Sign', effect: 'foreign-message' },
  { on: 'C_SignInit', effect: 'wrong-key' },
];
const works = 50;
const rounds_max = 50;

/** So many in six parts, which together are all of them. */
const share = (count: number, part: number): number =>
  Math.floor((count * (part + 1)) / 6) - Math.floor((count * part) / 6);
