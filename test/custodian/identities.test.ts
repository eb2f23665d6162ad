import fc from 'fast-check';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { ApiTokens } from '../../src/custodian/api-tokens.ts';
import { type Grant, type GrantOperation, grantsOf, mayRead, mayUse } from '../../src/custodian/grants.ts';
import { Identities, type Identity, type JwtClaims } from '../../src/custodian/identities.ts';
import { identityOperations } from '../../src/custodian/identity-operations.ts';
import { keyId, slotId } from '../../src/custody/ids.ts';
import { KeyslotError } from '../../src/foundation/errors.ts';
import { Secret } from '../../src/foundation/secret.ts';
import type { Credential, OperationName, Request } from '../../src/wire/custodian.ts';
import { grantOperations } from '../../src/wire/identities.ts';
import { Device, pinText } from './device.ts';
import { HeldClock, Lab, people, refusal, sha256 } from './lab.ts';

const known = (name: string, recognisedBy: NonNullable<Identity['recognisedBy']>): Identity => ({
  name,
  roles: ['signer'],
  grants: [],
  source: 'configuration',
  recognisedBy,
});

const [spki, otherSpki, ca, otherCa] = ['a', 'b', 'c', 'd'].map(sha256) as [string, string, string, string];
const uri = 'uri:spiffe://example.org/payments';

async function whose(identities: Identities, credential: Credential): Promise<string> {
  return (await identities.authenticate(credential)).name;
}
const answer = (identities: Identities, credential: Credential) =>
  whose(identities, credential).catch((error: { code: string }) => error.code);

describe('a client certificate', () => {
  const identities = new Identities([
    known('pinned', { spki }),
    known('named', { san: uri, ca }),
    known('host', { san: 'dns:Payments.Example', ca }),
    known('anyCa', { san: 'email:ops@example.org' }),
  ]);
  const certificate = (names: string[], issuer: string | undefined = ca, own = otherSpki) =>
    answer(identities, { certificate: own, names, ...(issuer === undefined ? {} : { issuer }) });

  it('is known by its public key, whoever issued it', async () => {
    expect(await certificate([], otherCa, spki)).toBe('pinned');
    expect(await certificate([uri], ca, spki)).toBe('pinned');
  });

  it('is known by a name that the right CA gave it, and by no other CA', async () => {
    expect(await certificate([uri])).toBe('named');
    expect(await certificate([uri], otherCa)).toBe('CREDENTIAL_UNKNOWN');
    expect(await answer(identities, { certificate: otherSpki, names: [uri] })).toBe('CREDENTIAL_UNKNOWN');
    expect(await certificate(['email:ops@example.org'], otherCa)).toBe('anyCa');
  });

  it('is compared by type and in full; only host names do without case', async () => {
    expect(await certificate(['dns:payments.example'])).toBe('host');
    for (const name of [
      uri.toUpperCase(),
      `${uri}/x`,
      uri.slice(0, -1),
      uri.replace('uri', 'dns'),
      'email:OPS@example.org',
    ]) {
      expect(await certificate([name])).toBe('CREDENTIAL_UNKNOWN');
    }
  });

  it('with the names of two identities is nobody', async () => {
    expect(await certificate([uri, 'dns:payments.example'])).toBe('CREDENTIAL_UNKNOWN');
  });

  it('never passes for a token of the same digest, nor a token for it', async () => {
    expect(await answer(identities, { token: spki })).toBe('CREDENTIAL_UNKNOWN');
    const tokens = new Identities([known('robot', { token: spki })]);
    expect(await answer(tokens, { certificate: spki })).toBe('CREDENTIAL_UNKNOWN');
    expect(await answer(tokens, { token: spki })).toBe('robot');
  });
});

describe('the claims of a JWT', () => {
  const people = [
    known('alice', { jwt: 'corporate', subject: 'alice' }),
    known('ops', { jwt: 'corporate', subject: 'bob', claims: { groups: 'ops' } }),
    known('dev', { jwt: 'corporate', subject: 'bob', claims: { groups: 'dev', env: 'test' } }),
  ];
  const says = (claims: JwtClaims) => answer(new Identities(people, { jwt: () => claims }), { jwt: 'x' });
  const bob = (claims: JwtClaims['claims']) => says({ issuer: 'corporate', subject: 'bob', claims });

  it('name an identity by issuer and subject', async () => {
    expect(await says({ issuer: 'corporate', subject: 'alice', claims: {} })).toBe('alice');
    expect(await says({ issuer: 'other', subject: 'alice', claims: {} })).toBe('CREDENTIAL_UNKNOWN');
    expect(await says({ issuer: 'corporate', subject: 'Alice', claims: {} })).toBe('CREDENTIAL_UNKNOWN');
  });

  it('must all be as the identity asks for, as a value or in a list', async () => {
    expect(await bob({ groups: 'ops' })).toBe('ops');
    expect(await bob({ groups: ['x', 'ops'] })).toBe('ops');
    expect(await bob({ groups: ['dev'], env: 'test' })).toBe('dev');
    expect(await bob({ groups: ['dev'] })).toBe('CREDENTIAL_UNKNOWN');
    expect(await bob({ groups: { ops: 'ops' } })).toBe('CREDENTIAL_UNKNOWN');
    expect(await bob({})).toBe('CREDENTIAL_UNKNOWN');
  });

  it('that fit two identities are of nobody', async () => {
    expect(await bob({ groups: ['ops', 'dev'], env: 'test' })).toBe('CREDENTIAL_UNKNOWN');
  });

  it('are not asked of anybody while no issuer is configured', async () => {
    expect(await answer(new Identities(people), { jwt: 'x' })).toBe('CREDENTIAL_UNKNOWN');
  });
});

describe('two identities', () => {
  it.each([
    ['of one name', known('one', { spki: otherSpki })],
    ['of one certificate', known('two', { spki })],
  ])('%s cannot both be there: IDENTITY_EXISTS', async (_what, second) => {
    const attempt = async () => new Identities([known('one', { spki }), second]);
    expect(await refusal(attempt())).toBe('IDENTITY_EXISTS');
  });
});

describe('a grant', () => {
  const slots = ['main', 'spare'].map(slotId);
  const keys = ['k1', 'k2'].map(keyId);
  const arbGrant = fc.record(
    {
      keys: fc.subarray(['k1', 'k2']),
      tags: fc.subarray(['t1', 't2']),
      slots: fc.oneof(fc.constant('*' as const), fc.subarray(['main', 'spare'])),
      operations: fc.oneof(fc.constant('*' as const), fc.subarray([...grantOperations])),
    },
    { requiredKeys: ['operations'] },
  );
  const arbTarget = fc.record({
    slot: fc.constantFrom(...slots),
    key: fc.constantFrom(...keys),
    tags: fc.subarray(['t1', 't2']),
  });
  const of = (grants: readonly Grant[]) => ({ roles: ['signer'] as const, grants });

  it('lets nobody do anything when there is none', () => {
    fc.assert(
      fc.property(arbTarget, fc.constantFrom(...grantOperations), (target, operation) => {
        expect(mayUse(of([]), operation, target)).toBe(false);
        expect(mayRead(of([]), target)).toBe(false);
      }),
    );
  });

  it('covers what one of its lists names, for what it names, and nothing else', () => {
    fc.assert(
      fc.property(arbGrant, arbTarget, fc.constantFrom(...grantOperations), (grant, target, operation) => {
        const named =
          grant.slots === '*' ||
          [...(grant.slots ?? [])].includes(target.slot) ||
          [...(grant.keys ?? [])].includes(target.key) ||
          [...(grant.tags ?? [])].filter(tag => target.tags.includes(tag)).length > 0;
        const everyday = operation !== 'raw' && operation !== 'export';
        const meant = grant.operations === '*' ? everyday : grant.operations.includes(operation);
        expect(mayUse(of([grant]), operation, target)).toBe(named && meant);
        expect(mayRead(of([grant]), target)).toBe(named);
      }),
    );
  });

  it('of keys and tags is none of their slot', () => {
    const grants: Grant[] = [{ keys: ['k1'], tags: ['t1'], operations: '*' }];
    expect(mayUse(of(grants), 'generate', { slot: slotId('main') })).toBe(false);
    expect(mayRead(of(grants), { slot: slotId('main') })).toBe(false);
  });

  it('as slots are written short is for everything but raw and export', () => {
    const may = (operation: GrantOperation) =>
      mayUse(of(grantsOf(['main'])), operation, { slot: slotId('main') });
    expect(grantOperations.filter(operation => !may(operation))).toEqual(['raw', 'export']);
    expect(grantsOf([])).toEqual([]);
  });
});

describe('identities and tokens through the API', () => {
  let device: Device;
  let lab: Lab;

  beforeAll(async () => {
    device = await Device.make();
    const key = Secret.fromBytes(Buffer.alloc(32, 1));
    const settings = { apiTokens: { key, max_s: 3_600 } };
    lab = await Lab.with(settings, { slot: device.slot, source: () => pinText });
    await lab.custodian.openUnattended();
    await lab.ask('operator', 'generate-key', { key: 'wallet', slot: 'main' });
  });

  afterAll(async () => {
    await lab[Symbol.asyncDispose]();
    await device[Symbol.asyncDispose]();
  });

  /** Asks as whoever presents this. */
  const as = <N extends OperationName>(
    credential: Credential,
    name: N,
    input: Request<N>['input'],
    bytes?: Uint8Array[],
  ) => lab.custodian.call(name, bytes ? { input, bytes } : { input }, { requestId: 'lab', credential });
  const signing = (credential: Credential) =>
    refusal(as(credential, 'sign-message', { key: 'wallet' }, [Buffer.from('hello')]));
  const made = (identity: string, more: Partial<Request<'create-identity'>['input']['shape']> = {}) =>
    lab.ask('admin', 'create-identity', {
      identity,
      shape: { roles: ['signer'], grants: [{ keys: ['wallet'], operations: ['sign-message'] }], ...more },
    });

  it('are made by an admin, work at once and after a restart, and say who made them', async () => {
    const certificate = sha256('a certificate');
    expect(await signing({ certificate })).toBe('CREDENTIAL_UNKNOWN');
    const { output } = await made('added', { recognisedBy: { spki: certificate } });
    expect(output).toMatchObject({ name: 'added', source: 'api', createdBy: 'admin' });
    expect(await signing({ certificate })).toBe('none');
    await lab.restart();
    await lab.custodian.openUnattended();
    expect(await signing({ certificate })).toBe('none');
    expect((await as({ certificate }, 'who-am-i', {})).output.name).toBe('added');
  });

  it('end at once when they are removed, with their tokens, and the name brings nothing back', async () => {
    await made('leaving');
    const reply = await lab.ask('admin', 'issue-token', { identity: 'leaving', label: '', expires_s: 600 });
    const token = { token: sha256(reply.bytes?.[0] ?? new Uint8Array()) };
    expect(await signing(token)).toBe('none');
    await lab.ask('admin', 'delete-identity', { identity: 'leaving' });
    expect(await signing(token)).toBe('CREDENTIAL_EXPIRED');
    await made('leaving');
    expect(await signing(token)).toBe('CREDENTIAL_EXPIRED');
    await lab.restart();
    await lab.custodian.openUnattended();
    expect(['CREDENTIAL_EXPIRED', 'CREDENTIAL_UNKNOWN']).toContain(await signing(token));
  });

  it('of the configuration stay as they are: IDENTITY_MANAGED, IDENTITY_EXISTS', async () => {
    expect(await refusal(lab.ask('admin', 'delete-identity', { identity: 'signer' }))).toBe(
      'IDENTITY_MANAGED',
    );
    expect(await refusal(made('signer'))).toBe('IDENTITY_EXISTS');
    expect(await signing(people.signer.credential)).toBe('none');
  });

  it('are refused with a name that is none, or an issuer that nobody configured: IDENTITY_INVALID', async () => {
    expect(await refusal(made('Not A Name'))).toBe('IDENTITY_INVALID');
    const recognisedBy = { jwt: 'nowhere', subject: 'alice' };
    expect(await refusal(made('alice', { recognisedBy }))).toBe('IDENTITY_INVALID');
    expect(await refusal(lab.ask('admin', 'delete-identity', { identity: 'alice' }))).toBe(
      'IDENTITY_UNKNOWN',
    );
  });

  it('are made once of many who make them at the same time', async () => {
    const codes = await Promise.all(Array.from({ length: 5 }, () => refusal(made('contested'))));
    expect(codes.toSorted()).toEqual([
      'IDENTITY_EXISTS',
      'IDENTITY_EXISTS',
      'IDENTITY_EXISTS',
      'IDENTITY_EXISTS',
      'none',
    ]);
  });
});

describe('a reload while an identity is being made', () => {
  const clock = new HeldClock();

  it.each(['written', 'not written'] as const)(
    'that brings one of the same name keeps that one, when the other is %s: IDENTITY_EXISTS or its failure',
    async outcome => {
      const identities = new Identities([]);
      const configured = known('anna', { spki });
      const removed: string[] = [];
      const operations = identityOperations({
        identities,
        rows: {
          all: async () => [],
          put: async () => {
            identities.replacing([configured])();
            if (outcome === 'not written') throw new KeyslotError('STORE_FAILED', 'no space');
          },
          remove: async name => void removed.push(name),
        },
        tokens: { revokeAllOf: async () => undefined } as unknown as ApiTokens,
        issuers: () => [],
        ended: () => undefined,
        clock,
      });
      const shape = { roles: ['signer' as const], grants: [] };
      const making = operations['create-identity'](
        { input: { identity: 'anna', shape } },
        { requestId: 'r' },
        people.admin,
      );
      expect(await refusal(making)).toBe(outcome === 'written' ? 'IDENTITY_EXISTS' : 'STORE_FAILED');
      expect(identities.get('anna')).toBe(configured);
      expect(removed).toEqual(outcome === 'written' ? ['anna'] : []);
      expect(await whose(identities, { certificate: spki })).toBe('anna');
    },
  );
});
