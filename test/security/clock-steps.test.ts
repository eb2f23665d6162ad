import { generateKeyPairSync, sign } from 'node:crypto';
import { afterEach, describe, expect, it } from 'vitest';
import type { Identity } from '../../src/custodian/identities.ts';
import { Secret } from '../../src/foundation/secret.ts';
import { everythingAllowed } from '../../src/policy/permissive.ts';
import type { Credential } from '../../src/wire/custodian.ts';
import { absolute_ms, idle_ms, type LabSettings, people, refusal, sha256, text } from '../custodian/lab.ts';
import { atMost, day_ms, SetClock, World } from './lab.ts';

/** Whoever may set the clock of the machine, a day forward or back, as often as they like. */
const steps = {
  'a day forward': [day_ms],
  'a day back': [-day_ms],
  'a day forward and back again': [day_ms, -day_ms],
  'back, and then two days forward': [-day_ms, day_ms, day_ms],
};

const issuer = generateKeyPairSync('ed25519');
const alice: Identity = {
  name: 'alice',
  roles: ['signer'],
  grants: people.signer.grants,
  source: 'configuration',
  recognisedBy: { jwt: 'corporate', subject: 'alice' },
};

let clock: SetClock;
let world: World;

async function begin(
  documents: readonly Record<string, unknown>[],
  access: 'identity' | 'session' = 'identity',
) {
  clock = new SetClock(); // a Wednesday, 10:00 UTC
  const settings: LabSettings = {
    clock,
    policies: { documents },
    identities: [...Object.values(people), alice],
    apiTokens: { key: Secret.fromBytes(Buffer.alloc(32, 7)), max_s: 3_600 },
    jwtIssuers: [
      {
        name: 'corporate',
        issuer: 'https://issuer.example',
        audience: ['keyslot'],
        algorithms: ['EdDSA'],
        clockSkew_s: 30,
        keys: {
          refresh_ms: 300_000,
          max_ms: 3_600_000,
          cooldown_ms: 10_000,
          read: async () =>
            JSON.stringify({ keys: [{ ...issuer.publicKey.export({ format: 'jwk' }), kid: 'one' }] }),
        },
      },
    ],
  };
  world = await World.open(settings, access);
}

afterEach(() => world[Symbol.asyncDispose]());

const everything = everythingAllowed('everything', 'all');

function jwt(lives_s: number): string {
  const exp = Math.floor(clock.utc().getTime() / 1_000) + lives_s;
  const parts = [
    { alg: 'EdDSA', kid: 'one' },
    { iss: 'https://issuer.example', aud: 'keyslot', sub: 'alice', exp },
  ];
  const input = parts.map(part => Buffer.from(JSON.stringify(part)).toString('base64url')).join('.');
  return `${input}.${sign(null, Buffer.from(input), issuer.privateKey).toString('base64url')}`;
}

const who = (credential: Credential) =>
  refusal(world.lab.custodian.call('who-am-i', { input: {} }, { requestId: 'r', credential }));

describe.each(Object.entries(steps))('a clock that is set %s', (_name, by_ms) => {
  const each = async (look: () => Promise<void>): Promise<void> => {
    for (const step_ms of by_ms) {
      clock.step(step_ms);
      await look();
    }
  };

  it('empties no limit, and fills none for longer than its window', async () => {
    await begin([atMost(1)]);
    await world.signMessage(text('the one'));
    await each(async () => expect(await refusal(world.signMessage(text('one more')))).toBe('POLICY_DENIED'));
    clock.advance(2 * 3_600_000);
    expect(await refusal(world.signMessage(text('an hour later')))).toBe('none');
  });

  it('opens and closes no office', async () => {
    const hours = (from: string, to: string) => ({
      ...everything,
      times: [{ days: ['wed'], from, to, zone: 'UTC' }],
    });
    await begin([hours('09:00', '17:00')]);
    await each(async () => expect(await refusal(world.signMessage(text('at work')))).toBe('none'));
    clock.advance(8 * 3_600_000);
    await each(async () => expect(await refusal(world.signMessage(text('at night')))).toBe('POLICY_DENIED'));
  });

  it('revives no API token and no JWT, and ends none', async () => {
    await begin([everything]);
    const shape = { roles: ['signer' as const], grants: [] };
    await world.lab.ask('admin', 'create-identity', { identity: 'program', shape });
    const issue = { identity: 'program', label: '', expires_s: 600 };
    const { bytes } = await world.lab.ask('admin', 'issue-token', issue);
    const credentials = [{ token: sha256(bytes?.[0] ?? '') }, { jwt: jwt(600) }];
    for (const credential of credentials) {
      expect(await who(credential)).toBe('none');
    }
    await each(async () => {
      for (const credential of credentials) expect(await who(credential)).toBe('none');
    });
    clock.advance(700_000);
    await each(async () => {
      for (const credential of credentials) expect(await who(credential)).toBe('CREDENTIAL_EXPIRED');
    });
  });

  it('revives no session and ends none', async () => {
    await begin([everything], 'session');
    const session = await world.lab.session('signer');
    const use = () => refusal(world.signMessage(text('inside'), { session }));
    await each(async () => expect(await use()).toBe('none'));
    clock.advance(idle_ms);
    await each(async () => expect(await use()).toBe('SESSION_EXPIRED'));
    expect(absolute_ms).toBeGreaterThan(idle_ms);
  });

  it('shortens no wait behind a wrong PIN', async () => {
    await begin([everything], 'session');
    const guess = () =>
      refusal(world.lab.ask('signer', 'open-session', { slot: 'main' }, { bytes: [text('a guess')] }));
    for (let time = 0; time < 5; time += 1) {
      expect(await guess()).toBe('PIN_INCORRECT');
      clock.advance(1_000);
    }
    await each(async () => expect(await guess()).toBe('IDENTITY_LOCKED_OUT'));
  });

  it('forgets no request that was signed, so that its replay stays a replay', async () => {
    await begin([atMost(1)]);
    const rest = { idempotencyKey: 'payment-1' };
    await world.signMessage(text('the one'), rest);
    await each(async () => expect(await refusal(world.signMessage(text('the one'), rest))).toBe('none'));
    expect(world.signerCalls).toBe(1);
  });
});

describe('a clock that was set while the custodian was down', () => {
  it('back by a day, empties no limit', async () => {
    await begin([atMost(1)]);
    await world.signMessage(text('the one'));
    clock.step(-day_ms);
    await world.restart();
    expect(await refusal(world.signMessage(text('one more')))).toBe('POLICY_DENIED');
  });

  it('back by a day, revives no API token that was revoked', async () => {
    await begin([everything]);
    const shape = { roles: ['signer' as const], grants: [] };
    await world.lab.ask('admin', 'create-identity', { identity: 'program', shape });
    const issue = { identity: 'program', label: '', expires_s: 600 };
    const { output, bytes } = await world.lab.ask('admin', 'issue-token', issue);
    await world.lab.ask('admin', 'revoke-token', { token: output.id });
    clock.step(-day_ms);
    await world.restart();
    expect(await who({ token: sha256(bytes?.[0] ?? '') })).toBe('CREDENTIAL_EXPIRED');
  });
});
