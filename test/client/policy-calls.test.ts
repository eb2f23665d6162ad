import { afterAll, beforeAll, expect, it } from 'vitest';
import type { KeyslotClient } from '../../src/client/index.ts';
import { decodeBase58 } from '../../src/foundation/base58.ts';
import { everythingAllowed } from '../../src/policy/permissive.ts';
import { House } from '../gateway/house.ts';
import { address, transfer, wireOf } from '../policy/lab.ts';
import { codeOf } from './lab.ts';

/** The client's calls of policies, freezes, approvals, audit and keys against a real gateway and custodian. */

let house: House;
let alice: KeyslotClient;
let bob: KeyslotClient;
const hello = new TextEncoder().encode('hello');

beforeAll(async () => {
  house = await House.open(
    { alice: ['admin', 'operator', 'signer', 'auditor'], bob: ['approver'] },
    {
      policies: { documents: [everythingAllowed('base', { tags: ['hot'] })] },
      approvals: new Map([['export-key', 1]]),
      exports: true,
    },
  );
  [alice, bob] = [house.clientOf('alice'), house.clientOf('bob')];
});

afterAll(() => house[Symbol.asyncDispose]());

it('a key is made with tags, tagged anew, disabled, enabled, and exported with an approval', async () => {
  expect(await alice.keys.generate('k', 'main', { tags: ['hot'] })).toMatchObject({ id: 'k', tags: ['hot'] });
  expect(await alice.keys.tag('k', ['cold'])).toMatchObject({ tags: ['cold'] });
  expect(await codeOf(alice.signMessage('k', hello))).toBe('POLICY_DENIED');
  await alice.keys.tag('k', ['hot']);
  expect(await alice.keys.disable('k')).toMatchObject({ state: 'disabled' });
  expect(await alice.keys.enable('k')).toMatchObject({ state: 'active' });
  const asked = { operation: 'export-key', input: { key: 'k' }, reason: 'a test' };
  const { id, digest } = await alice.approvals.request(asked);
  expect(await bob.approvals.approve(id, digest)).toMatchObject({ state: 'approved' });
  expect(await alice.approvals.show(id)).toMatchObject({ approvedBy: ['bob'] });
  const { key, secretKey } = await alice.keys.export('k', { approval: id });
  expect(secretKey.subarray(32)).toEqual(Uint8Array.from(decodeBase58(key.publicKey) ?? []));
  expect('secretKey' in key).toBe(false);
  const again = await alice.approvals.request(asked);
  expect(await bob.approvals.reject(again.id, again.digest)).toMatchObject({ state: 'rejected' });
  expect(await bob.approvals.list()).toHaveLength(2);
});

it('a policy is put, shown, evaluated and deleted', async () => {
  const document = { name: 'quiet', appliesTo: { tags: ['quiet'] }, messages: { offchain: true } };
  expect(await alice.policies.put('quiet', { document, expected: 0 })).toMatchObject({ version: 1 });
  expect(await alice.policies.show('quiet', 1)).toMatchObject({ document });
  expect(await alice.policies.show('quiet')).toMatchObject({ version: 1 });
  expect(await alice.policies.list()).toHaveLength(2);
  const payer = decodeBase58((await alice.keys.show('k')).publicKey) ?? new Uint8Array();
  const transaction = wireOf([transfer(address('alice'), 5n, payer)], { payer });
  expect(await alice.policies.evaluate('k', { transaction })).toMatchObject({ allowed: true });
  const candidate = { ...document, appliesTo: 'all' };
  expect(await alice.policies.evaluate('k', { message: hello }, candidate)).toMatchObject({
    allowed: false,
    violations: [{ rule: 'quiet/messages' }],
  });
  expect(await alice.policies.delete('quiet')).toMatchObject({ name: 'quiet' });
  expect(await codeOf(alice.policies.show('../keys'))).toBe('POLICY_UNKNOWN');
});

it('a freeze stops signing until it is thawed', async () => {
  expect(await bob.freezes.freeze({ scope: 'key', target: 'k', reason: 'a test' })).toMatchObject({
    by: 'bob',
  });
  expect(await codeOf(alice.signMessage('k', hello))).toBe('FROZEN');
  expect(await alice.freezes.list()).toMatchObject([{ id: 'key/k' }]);
  expect(await alice.freezes.thaw('key/k', 'over')).toMatchObject({ id: 'key/k' });
});

it('a receipt leads to its record in the audit log', async () => {
  const options = { requestId: 'my-request' };
  const { receipt } = await alice.signMessage('k', hello, options);
  expect((await alice.signMessage('k', hello, options)).receipt).toEqual(receipt);
  const { lines, size } = await alice.audit.read({ from: receipt.seq, limit: 1 });
  expect(JSON.parse(lines[0] ?? '')).toMatchObject({ seq: receipt.seq, requestId: 'my-request', key: 'k' });
  expect(await alice.audit.status()).toMatchObject({ node: receipt.node, size, state: 'ok' });
  expect(await alice.audit.checkpoints()).toEqual(expect.any(Array));
  expect(await codeOf(alice.audit.proof(size + 9))).toBe('AUDIT_RECORD_UNKNOWN');
});
