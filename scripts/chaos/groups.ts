import { randomBytes } from 'node:crypto';
import { type Chaos, exactly, type Figure, type Scenario, told } from './figure.ts';
import { House, tokenLabel } from './house.ts';
import { failuresOf, Signer, signedOf } from './signing.ts';
import { Trail } from './trail.ts';

/** Two tokens hold the same key; under load, the one that the key was made in goes away and comes back, in turn. */
export const groups: Scenario = {
  name: 'groups',
  what: 'one of two tokens goes away under load',
  async run({ short, stack, progress, note }: Chaos): Promise<readonly Figure[]> {
    const count = short ? 500 : 20_000;
    const turn = short ? 500 : 1_000;
    const house = await House.start(stack, { pairedKey });
    const { faulty } = house;
    const client = house.client();
    const auditKey = await house.auditKey(client);
    const seed = randomBytes(32);
    const { publicKey } = await client.keys.import(pairedKey, { slot: 'main', seed });
    await client.keys.import(pairedKey, { slot: 'mate', seed });
    const signer = new Signer(client, house, { key: pairedKey, publicKey });
    await signer.sign('before', 100, lanes);
    let losses = 0;
    const signings = await signer.sign('groups', count, lanes, done => {
      if (done % 50 === 0) progress(`${done} of ${count} signatures, ${losses} losses`);
      if (done % turn === turn / 4) {
        faulty.removeToken({ token: tokenLabel });
        losses += 1;
      }
      if (done % turn === (turn * 3) / 4) faulty.returnToken(tokenLabel);
    });
    faulty.heal();
    await house.stop();
    const trail = await Trail.read(house.auditFolder, auditKey, note);
    return [
      exactly('groups_wrong', 'signatures that do not verify, or differ for the same bytes', signer.wrong, 0),
      exactly(
        'groups_requests_lost',
        'requests that ended without a signature',
        count - signedOf(signings).length,
        0,
      ),
      exactly('groups_lost', 'acknowledged, and not so in the audit log', trail.lost(signings), 0),
      exactly('groups_log_findings', 'what is wrong with the audit log', trail.findings, 0),
      told('groups_signatures', 'signatures asked for', count),
      told('groups_losses', 'times that the token went away', losses),
      ...Object.entries(failuresOf(signings)).map(([code, times]) =>
        told(`groups_ended_${code}`, `requests that ended with ${code}`, times),
      ),
    ];
  },
};

const pairedKey = 'paired';
const lanes = 16;
