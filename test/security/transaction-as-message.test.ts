import fc from 'fast-check';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import type { Identity } from '../../src/custodian/identities.ts';
import { publicKeyFromSeed } from '../../src/foundation/ed25519.ts';
import type { Credential } from '../../src/wire/custodian.ts';
import { people, refusal, sha256, text } from '../custodian/lab.ts';
import {
  type Compiled,
  compiledMessages,
  messageBytes,
  plain,
  plainV0,
  plainV1,
  wireBytes,
} from '../solana/compiled.ts';
import { seed, World } from './lab.ts';

let world: World;

/** Messages of every kind may be signed, and no transaction at all: what slips through is seen. */
const messagesOnly = {
  name: 'messages',
  appliesTo: 'all',
  messages: { offchain: true, bytes: 'any' },
};

const rawSigner: Identity & { credential: Credential } = {
  name: 'raw-signer',
  roles: ['signer'],
  grants: [{ slots: '*', operations: ['raw', 'sign-message'] }],
  source: 'configuration',
  recognisedBy: { token: sha256('raw-signer') },
  credential: { token: sha256('raw-signer') },
};
const identities = [...Object.values(people), rawSigner];

beforeEach(async () => {
  world = await World.open({ identities, policies: { documents: [messagesOnly] } });
});

afterEach(() => world[Symbol.asyncDispose]());

/** The key of the world is a required signer in each of them. */
const signedByWallet = (parts: Compiled): Compiled => ({
  ...parts,
  keys: [publicKeyFromSeed(seed()), ...parts.keys.slice(1)],
});

const corpus: readonly Compiled[] = [
  ...[plain, plainV0, plainV1].map(signedByWallet),
  ...fc.sample(compiledMessages, { numRuns: 200, seed: 14 }).map(signedByWallet),
];

const unsigned = (parts: Compiled) =>
  wireBytes(
    parts,
    Array.from({ length: parts.required }, () => new Uint8Array(64)),
  );

const forms: Readonly<Record<string, (parts: Compiled) => Uint8Array>> = {
  'its message': messageBytes,
  'its message with bytes behind it': parts => Buffer.concat([messageBytes(parts), text('and more')]),
  'its wire form without signatures': unsigned,
  'its wire form with signatures': parts => wireBytes(parts),
};

describe.each(Object.entries(forms))('a transaction that is sent as a message, as %s', (_name, formOf) => {
  it('is never signed, by no route that takes messages', async () => {
    for (const parts of corpus) {
      const bytes = formOf(parts);
      expect(await refusal(world.signMessage(bytes))).toBe('MESSAGE_IS_TRANSACTION');
      const { output } = await world.lab.ask('signer', 'sign-bytes', { key: 'wallet' }, { bytes: [bytes] });
      const code = expect.stringMatching(/^(POLICY_DENIED|TRANSACTION_|MESSAGE_IS_TRANSACTION$)/);
      expect(output.results).toMatchObject([{ code }]);
    }
    expect(world.signerCalls).toBe(0);
  });
});

describe('the raw right', () => {
  const ask = (credential: Credential | undefined, raw: boolean, bytes = messageBytes(plain)) =>
    refusal(
      world.lab.custodian.call(
        'sign-message',
        { input: { key: 'wallet', raw }, bytes: [bytes] },
        { requestId: 'attack', credential },
      ),
    );

  it('of a grant is not enough where the policy does not say raw', async () => {
    for (const parts of corpus.slice(0, 50)) {
      expect(await ask(rawSigner.credential, true, messageBytes(parts))).toBe('POLICY_DENIED');
    }
    expect(world.signerCalls).toBe(0);
  });

  it('of a policy is not enough without the grant, and neither is meant unless it is said', async () => {
    const document = { ...messagesOnly, name: 'raw', messages: { bytes: 'any', raw: true } };
    world.lab.settings = { identities, policies: { documents: [document] } };
    await world.restart();
    expect(await ask(people.signer.credential, true)).toBe('PERMISSION_DENIED');
    expect(await ask(people.signer.credential, false)).toBe('MESSAGE_IS_TRANSACTION');
    expect(await ask(rawSigner.credential, false)).toBe('MESSAGE_IS_TRANSACTION');
    expect(world.signerCalls).toBe(0);
    expect(await ask(rawSigner.credential, true)).toBe('none'); // with both of them
  });
});
