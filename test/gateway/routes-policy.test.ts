import fc from 'fast-check';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { decodeBase58, encodeBase58 } from '../../src/foundation/base58.ts';
import { everythingAllowed } from '../../src/policy/permissive.ts';
import { base64, type Client, expectProblem } from '../e2e/appliance.ts';
import { address, transfer, wireOf } from '../policy/lab.ts';
import { House } from './house.ts';

/** The routes of policies, freezes, approvals, audit and keys, and the headers, over HTTPS to a custodian. */

let house: House;
let alice: Client; // everything but to approve
let bob: Client; // approves
let signer: Client;
let publicKey: Uint8Array;

/** An answer as whatever it is. */
const bodyOf = async <T>(reply: Promise<{ text: string }>): Promise<T> => JSON.parse((await reply).text) as T;

beforeAll(async () => {
  const alices = ['admin', 'operator', 'signer', 'auditor'] as const;
  house = await House.open(
    { alice: alices, bob: ['approver'], signer: ['signer'] },
    {
      policies: { documents: [everythingAllowed('base', { keys: ['hot', 'exported'] })] },
      approvals: new Map([
        ['export-key', 1],
        ['destroy-key', 1],
      ]),
      exports: true,
    },
  );
  [alice, bob, signer] = [house.as('alice'), house.as('bob'), house.as('signer')];
  for (const id of ['hot', 'cold', 'exported']) {
    const made = await alice.post('/v1/keys', { id, slot: 'main', tags: [id] });
    expect(made).toMatchObject({ status: 201, json: { tags: [id] } });
    if (id === 'hot') publicKey = decodeBase58(made.json.publicKey ?? '') ?? new Uint8Array();
  }
});

afterAll(() => house[Symbol.asyncDispose]());

const message = { message: base64('hello') };
const transaction = () => ({
  transaction: base64(wireOf([transfer(address('alice'), 5n, publicKey)], { payer: publicKey })),
});
const auditSize = async () => (await bodyOf<{ size: number }>(alice.get('/v1/audit/status'))).size;

interface Receipt {
  readonly node: string;
  readonly seq: number;
  readonly hash: string;
  readonly proof: string;
}

describe('a signature', () => {
  it('carries the receipt of its record, alone and in a batch', async () => {
    const single = await bodyOf<{ receipt: Receipt }>(
      signer.post('/v1/keys/hot/sign-transaction', transaction()),
    );
    const { seq, proof } = single.receipt;
    expect(proof).toBe(`/v1/audit/${seq}/proof`);
    const { lines } = await bodyOf<{ lines: string[] }>(alice.get(`/v1/audit?from=${seq}&limit=1`));
    expect(JSON.parse(lines[0] ?? '')).toMatchObject({ seq, type: 'result', key: 'hot', outcome: 'ok' });
    const { results } = await bodyOf<{ results: { receipt: Receipt }[] }>(
      signer.post('/v1/keys/hot/sign-batch', { items: [message, transaction()] }),
    );
    expect(results.map(({ receipt }) => receipt.node)).toEqual(['lab', 'lab']);
    expect(new Set(results.map(({ receipt }) => receipt.hash)).size).toBe(2);
  });

  it('that a policy refuses says which rules did, and so does an item of a batch', async () => {
    const refused = await signer.post('/v1/keys/cold/sign-message', message);
    expectProblem(refused, 403, 'POLICY_DENIED');
    expect(refused.json).toMatchObject({ violations: [{ rule: 'no-policy', reason: expect.any(String) }] });
    const batch = await bodyOf<{ results: { error: unknown }[] }>(
      signer.post('/v1/keys/cold/sign-batch', { items: [message] }),
    );
    expect(batch.results[0]?.error).toMatchObject({
      code: 'POLICY_DENIED',
      violations: [{ rule: 'no-policy' }],
    });
  });

  it('of a raw transaction message is made when raw is said, and not otherwise', async () => {
    const wire = wireOf([transfer(address('alice'), 5n, publicKey)], { payer: publicKey });
    const raw = { message: base64(wire.subarray(65)) };
    expectProblem(await signer.post('/v1/keys/hot/sign-message', raw), 422, 'MESSAGE_IS_TRANSACTION');
    const signed = await signer.post('/v1/keys/hot/sign-message', { ...raw, raw: true });
    expect(signed).toMatchObject({ status: 200, json: { kind: 'raw-transaction' } });
  });
});

describe('the headers', () => {
  it('a request id of the caller is echoed, stands in problems and in the log; another one is passed over', async () => {
    for (const header of ['Request-Id', 'X-Request-Id']) {
      const headers = { [header]: `mine:${header}` };
      const signed = await signer.post('/v1/keys/hot/sign-message', { message: base64(header) }, headers);
      expect(signed.headers['request-id']).toBe(`mine:${header}`);
      const refused = await signer.send('GET', '/v1/nowhere', { headers });
      expectProblem(refused, 404, 'ROUTE_UNKNOWN');
      expect(refused.json.requestId).toBe(`mine:${header}`);
    }
    for (const id of ['with space', 'x'.repeat(101), 'a/b', '']) {
      const reply = await signer.send('GET', '/v1/keys/hot', { headers: { 'Request-Id': id } });
      expect(reply.status).toBe(200);
      expect(reply.headers['request-id']).toMatch(/^[0-9a-f]{12}-[0-9a-z]+$/);
    }
  });

  it('under one Idempotency-Key a thing is done once, and another request is refused', async () => {
    const headers = { 'Idempotency-Key': 'the same "key" of mine' };
    const before = await auditSize();
    const first = await signer.post('/v1/keys/hot/sign-message', message, headers);
    expect(await signer.post('/v1/keys/hot/sign-message', message, headers)).toMatchObject({
      text: first.text,
    });
    expect((await auditSize()) - before).toBe(2);
    expectProblem(
      await signer.post('/v1/keys/hot/sign-message', { message: base64('other') }, headers),
      409,
      'IDEMPOTENCY_CONFLICT',
    );
    const generating = { id: 'once', slot: 'main' };
    const made = await alice.post('/v1/keys', generating, headers);
    expect(await alice.post('/v1/keys', generating, headers)).toMatchObject({ status: 201, text: made.text });
    expectProblem(await alice.post('/v1/keys', generating), 409, 'KEY_EXISTS');
  });

  it('the same request id and the same bytes are the same request, as long as its caller named it', async () => {
    const headers = { 'Request-Id': 'a-request' };
    const ask = () =>
      bodyOf<{ receipt: Receipt }>(
        signer.post('/v1/keys/hot/sign-message', { message: base64('natural') }, headers),
      );
    expect((await ask()).receipt).toEqual((await ask()).receipt);
  });

  it('an Idempotency-Key that is none is refused on what changes something, and not looked at on what reads', async () => {
    const wrong = fc.oneof(
      fc.constant(''),
      fc.string({ minLength: 256, maxLength: 400, unit: fc.constantFrom('a', '-') }),
      fc.constantFrom('tab\tin it', 'umlaut \xe4'),
    );
    await fc.assert(
      fc.asyncProperty(wrong, async key => {
        const headers = { 'Idempotency-Key': key };
        const refused = await signer.post('/v1/keys/hot/sign-message', message, headers);
        expectProblem(refused, 400, 'IDEMPOTENCY_KEY_INVALID');
        expect((await signer.send('GET', '/v1/keys/hot', { headers })).status).toBe(200);
      }),
      { numRuns: 10 },
    );
  });

  it('an approval that none can be is unknown before anything happens', async () => {
    for (const approval of ['a b', 'x'.repeat(101), '']) {
      const reply = await alice.post('/v1/keys/cold/destroy', {}, { 'Keyslot-Approval': approval });
      expectProblem(reply, 404, 'APPROVAL_UNKNOWN');
    }
  });
});

describe('policies', () => {
  const document = { name: 'quiet', appliesTo: { keys: ['cold'] }, messages: { offchain: true } };

  it('are put in versions, read, listed and deleted; a change of an older version is refused', async () => {
    const put = (body: object) => alice.send('PUT', '/v1/policies/quiet', { body });
    expect(await put({ document, expected: 0 })).toMatchObject({
      status: 200,
      json: { name: 'quiet', version: 1, source: 'api', permissive: false, createdBy: 'alice' },
    });
    expectProblem(await put({ document, expected: 0 }), 409, 'POLICY_CHANGED');
    const changed = { ...document, description: 'changed' };
    expect(await put({ document: changed, expected: 1 })).toMatchObject({ json: { version: 2 } });
    expect(await alice.get('/v1/policies/quiet')).toMatchObject({ json: { version: 2, document: changed } });
    expect(await alice.get('/v1/policies/quiet/versions/1')).toMatchObject({
      json: { version: 1, document },
    });
    for (const version of ['0', '9', 'x', '-1', '1e0']) {
      expectProblem(await alice.get(`/v1/policies/quiet/versions/${version}`), 404, 'POLICY_UNKNOWN');
    }
    const { policies } = await bodyOf<{ policies: { name: string }[] }>(alice.get('/v1/policies'));
    expect(policies.map(({ name }) => name).sort()).toEqual(['base', 'quiet']);
    expect(await alice.send('DELETE', '/v1/policies/quiet')).toMatchObject({ json: { name: 'quiet' } });
    expectProblem(await alice.get('/v1/policies/quiet'), 404, 'POLICY_UNKNOWN');
  });

  it('are refused when they are none, are the configuration’s, or come from somebody who may not', async () => {
    const put = (who: Client, name: string, body: unknown) =>
      who.send('PUT', `/v1/policies/${name}`, { body });
    expectProblem(await put(alice, 'quiet', { document: { ...document, more: 1 } }), 422, 'POLICY_INVALID');
    expectProblem(await put(alice, 'other', { document }), 422, 'POLICY_INVALID');
    expectProblem(await put(alice, 'quiet', document), 400, 'FIELD_UNKNOWN');
    expectProblem(await put(alice, 'quiet', { document: [] }), 400, 'BODY_INVALID');
    expectProblem(await put(alice, 'quiet', { document, expected: -1 }), 400, 'BODY_INVALID');
    expectProblem(await put(alice, 'quiet', { document, more: 1 }), 400, 'FIELD_UNKNOWN');
    expectProblem(await put(signer, 'quiet', { document }), 403, 'PERMISSION_DENIED');
    const base = { ...document, name: 'base' };
    expectProblem(await put(alice, 'base', { document: base }), 409, 'POLICY_MANAGED');
  });

  it('are explained for a transaction, for a message, and with a candidate in their place', async () => {
    const evaluate = (body: object) => signer.post('/v1/policies/evaluate', { key: 'hot', ...body });
    expect(await evaluate(transaction())).toMatchObject({
      status: 200,
      json: {
        allowed: true,
        policies: ['base@1'],
        decoded: { kind: 'transaction', feePayer: encodeBase58(publicKey) },
      },
    });
    const candidate = { name: 'candidate', appliesTo: 'all', messages: { offchain: true } };
    expect(await evaluate({ ...transaction(), document: candidate })).toMatchObject({
      json: { allowed: false, violations: expect.arrayContaining([]) },
    });
    expect(await evaluate({ ...message, document: candidate })).toMatchObject({
      json: { allowed: false, violations: [{ rule: 'candidate/messages' }] },
    });
    expectProblem(await evaluate({}), 400, 'BODY_INVALID');
    expectProblem(await evaluate({ ...message, ...transaction() }), 400, 'BODY_INVALID');
    expectProblem(await evaluate({ message: '!' }), 400, 'BASE64_INVALID');
    expectProblem(await evaluate({ ...message, document: {} }), 422, 'POLICY_INVALID');
  });
});

describe('freezes', () => {
  it('stop a key, a slot and the appliance, and are lifted by an admin alone', async () => {
    for (const what of [
      { scope: 'key', target: 'hot' },
      { scope: 'slot', target: 'main' },
      { scope: 'appliance' },
    ]) {
      const id = what.target === undefined ? what.scope : `${what.scope}/${what.target}`;
      const frozen = await bob.post('/v1/freezes', { ...what, reason: 'a test' });
      expect(frozen).toMatchObject({ status: 201, json: { id, by: 'bob', reason: 'a test' } });
      expectProblem(await signer.post('/v1/keys/hot/sign-message', message), 423, 'FROZEN');
      expect(await signer.get('/v1/freezes')).toMatchObject({ json: { freezes: [{ id }] } });
      expectProblem(
        await bob.post('/v1/freezes/thaw', { freeze: id, reason: 'over' }),
        403,
        'PERMISSION_DENIED',
      );
      expect(await alice.post('/v1/freezes/thaw', { freeze: id, reason: 'over' })).toMatchObject({
        json: { id },
      });
      expect((await signer.post('/v1/keys/hot/sign-message', message)).status).toBe(200);
    }
    expectProblem(
      await alice.post('/v1/freezes/thaw', { freeze: 'key/hot', reason: 'x' }),
      404,
      'FREEZE_UNKNOWN',
    );
    expectProblem(await bob.post('/v1/freezes', { scope: 'world', reason: 'x' }), 400, 'BODY_INVALID');
    expectProblem(await bob.post('/v1/freezes', { scope: 'key', reason: 'x' }), 400, 'BODY_INVALID');
    expectProblem(await bob.post('/v1/freezes', { scope: 'appliance' }), 400, 'BODY_INVALID');
  });
});

/** Alice asks, and bob says yes. */
async function approved(operation: string, input: object): Promise<Record<string, string>> {
  const asked = await alice.post('/v1/approvals', { operation, input, reason: 'a test' });
  expect(asked).toMatchObject({ status: 201, json: { state: 'pending', requestedBy: 'alice', input } });
  const { id, digest } = JSON.parse(asked.text) as { id: string; digest: string };
  expectProblem(await bob.post(`/v1/approvals/${id}/approve`, {}), 400, 'BODY_INVALID');
  const other = { digest: '0'.repeat(64) };
  expectProblem(await bob.post(`/v1/approvals/${id}/approve`, other), 403, 'APPROVAL_UNUSABLE');
  const yes = await bob.post(`/v1/approvals/${id}/approve`, { digest });
  expect(yes).toMatchObject({ status: 200, json: { state: 'approved', approvedBy: ['bob'] } });
  expect(await alice.get(`/v1/approvals/${id}`)).toMatchObject({ text: yes.text });
  return { 'Keyslot-Approval': id };
}

describe('keys', () => {
  it('get their tags from an admin, and then other policies apply', async () => {
    const tag = (who: Client, body: object) => who.send('PUT', '/v1/keys/cold/tags', { body });
    expectProblem(await tag(signer, { tags: [] }), 403, 'PERMISSION_DENIED');
    expectProblem(await tag(alice, {}), 400, 'BODY_INVALID');
    expect(await tag(alice, { tags: ['cold', 'spare'] })).toMatchObject({
      json: { tags: ['cold', 'spare'] },
    });
    expect(await tag(alice, { tags: [] })).toMatchObject({ json: { tags: [] } });
  });

  it('are disabled, and sign again when they are enabled', async () => {
    expect(await alice.post('/v1/keys/hot/disable', {})).toMatchObject({ json: { state: 'disabled' } });
    expectProblem(await signer.post('/v1/keys/hot/sign-message', message), 409, 'KEY_DISABLED');
    expect(await alice.post('/v1/keys/hot/enable', {})).toMatchObject({ json: { state: 'active' } });
    expect((await signer.post('/v1/keys/hot/sign-message', message)).status).toBe(200);
  });

  it('leave as a Solana key file with an approval, and with none they do not', async () => {
    expectProblem(await alice.post('/v1/keys/exported/export', {}), 403, 'APPROVAL_REQUIRED');
    const terms = await approved('export-key', { key: 'exported' });
    const reply = await bodyOf<{ secretKey: number[]; publicKey: string; id: string }>(
      alice.post('/v1/keys/exported/export', {}, terms),
    );
    expect(reply.id).toBe('exported');
    expect(encodeBase58(Uint8Array.from(reply.secretKey.slice(32)))).toBe(reply.publicKey);
    const again = { slot: 'main', secretKey: reply.secretKey };
    expectProblem(await alice.post('/v1/keys/exported/export', {}, terms), 403, 'APPROVAL_UNUSABLE');
    expectProblem(await alice.post('/v1/keys/exported/import', again), 409, 'KEY_EXISTS');
  });

  it('are destroyed with an approval of exactly that, once', async () => {
    const terms = await approved('destroy-key', { key: 'exported' });
    expectProblem(await alice.post('/v1/keys/cold/destroy', {}, terms), 403, 'APPROVAL_UNUSABLE');
    const reply = await alice.post('/v1/keys/exported/destroy', {}, terms);
    expect(reply).toMatchObject({ status: 200, json: { id: 'exported', state: 'destroyed' } });
  });
});

describe('approvals', () => {
  it('are listed, rejected, and unknown when there is none; nobody decides on their own', async () => {
    const body = { operation: 'destroy-key', input: { key: 'hot' }, reason: 'a test' };
    const { id, digest } = await bodyOf<{ id: string; digest: string }>(alice.post('/v1/approvals', body));
    expectProblem(await alice.post(`/v1/approvals/${id}/approve`, { digest }), 403, 'PERMISSION_DENIED');
    expect(await bob.post(`/v1/approvals/${id}/reject`, { digest })).toMatchObject({
      json: { state: 'rejected' },
    });
    const { approvals } = await bodyOf<{ approvals: { id: string }[] }>(bob.get('/v1/approvals'));
    expect(approvals.map(each => each.id)).toContain(id);
    expectProblem(await bob.get('/v1/approvals/a-none'), 404, 'APPROVAL_UNKNOWN');
    expectProblem(await alice.post('/v1/approvals', { ...body, operation: 'fly' }), 400, 'BODY_INVALID');
    expectProblem(await alice.post('/v1/approvals', { ...body, input: {} }), 400, 'BODY_INVALID');
  });
});

describe('the audit log', () => {
  it('is read in stretches, line by line, and only by an auditor', async () => {
    const size = await auditSize();
    const lines: string[] = [];
    for (let from: number | undefined = 0; from !== undefined; ) {
      const page: { lines: string[]; next?: number } = await bodyOf(
        alice.get(`/v1/audit?from=${from}&limit=50`),
      );
      lines.push(...page.lines);
      from = page.next;
    }
    const seqs = lines.map(line => (JSON.parse(line) as { seq: number }).seq);
    expect(seqs).toEqual(seqs.map((_seq, at) => at));
    expect(seqs.length).toBeGreaterThanOrEqual(size);
    expectProblem(await signer.get('/v1/audit'), 403, 'PERMISSION_DENIED');
    expect(await alice.get('/v1/audit/checkpoints')).toMatchObject({
      json: { checkpoints: expect.any(Array) },
    });
  });

  it('names the parameter that is wrong', async () => {
    const queries = [
      ...['from=x', 'from=-1', 'from=1.5', 'limit=0', 'limit=501', 'limit=', 'size=1'].map(
        query => `?${query}`,
      ),
      ...['/checkpoints?from=1e3', '/consistency', '/consistency?from=1', '/consistency?from=0&to=a'],
      ...['/0/proof?size=0', '/0/proof?from=1'],
    ];
    for (const query of queries) expectProblem(await alice.get(`/v1/audit${query}`), 400, 'QUERY_INVALID');
    for (const seq of ['x', '-1', '999999', '99999999999999999999']) {
      expectProblem(await alice.get(`/v1/audit/${seq}/proof`), 404, 'AUDIT_RECORD_UNKNOWN');
    }
  });

  it('is not pruned where no witness has seen it', async () => {
    expectProblem(await alice.post('/v1/audit/prune', { below: 1 }), 409, 'AUDIT_UNWITNESSED');
    expectProblem(await alice.post('/v1/audit/prune', { below: 0 }), 400, 'BODY_INVALID');
    expectProblem(await signer.post('/v1/audit/prune', { below: 1 }), 403, 'PERMISSION_DENIED');
  });
});

describe('the other doors', () => {
  it('say receipts and violations too', async () => {
    const vault = await bodyOf<{ data: { receipt: Receipt } }>(
      signer.post('/v1/transit/sign/hot', { input: base64('by another door') }),
    );
    expect(vault.data.receipt.proof).toBe(`/v1/audit/${vault.data.receipt.seq}/proof`);
    expect(await alice.get('/v1/whoami')).toMatchObject({ status: 200, json: { name: 'alice' } });
  });
});
