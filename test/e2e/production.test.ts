import { afterAll, beforeAll, expect, it } from 'vitest';
import type { z } from 'zod';
import { createAuthority } from '../../src/appliance/certificates.ts';
import type { auditStatusView } from '../../src/wire/audit.ts';
import {
  type Appliance,
  base64,
  eventually,
  expectProblem,
  type Home,
  prepareHome,
  refusal,
  serve,
} from './appliance.ts';

type AuditStatus = z.infer<typeof auditStatusView>;

let home: Home;
let appliance: Appliance;

beforeAll(async () => {
  home = await prepareHome({ audit: true });
  home.configure(config => {
    config.profile = 'production';
    config.identities = config.identities.filter(identity => !('token' in identity));
  });
  expect(await refusal(serve(home))).toBe('POLICY_INVALID'); // it lets everything through
  home.setPolicies({ name: 'texts', appliesTo: { keys: ['wallet'] }, messages: { bytes: 'any' } });
  appliance = await serve(home);
});

afterAll(async () => {
  const exit = await appliance?.stop();
  home?.remove();
  expect(exit?.status).toBe(0);
});

it('serves who has a certificate of its CA', async () => {
  const client = appliance.client();
  expect((await client.post('/v1/keys', { id: 'wallet', slot: 'main' })).status).toBe(201);
  expect((await client.post('/v1/keys/wallet/sign-message', { message: base64('hello') })).status).toBe(200);
  client.close();
});

it('signs what a policy allows, and nothing with a key that no policy names', async () => {
  const client = appliance.client();
  expect((await client.post('/v1/keys', { id: 'nameless', slot: 'main' })).status).toBe(201);
  const reply = await client.post('/v1/keys/nameless/sign-message', { message: base64('hello') });
  expectProblem(reply, 403, 'POLICY_DENIED');
  client.close();
});

it('keeps an audit log that its own key in a slot of its own signs, and that key signs for nobody', async () => {
  const client = appliance.client();
  const status = await eventually('a signed checkpoint', async () => {
    const { json } = await client.get('/v1/audit/status');
    return (json as AuditStatus).checkpointed > 0 ? (json as AuditStatus) : undefined;
  });
  const { json: key } = await client.get('/v1/keys/audit');
  expect(status).toMatchObject({ state: 'ok', tamperEvidence: 'local', publicKey: key.publicKey });
  expect(key.slot).toBe('audit');
  const reply = await client.post('/v1/keys/audit/sign-message', { message: base64('hello') });
  expectProblem(reply, 403, 'PERMISSION_DENIED');
  client.close();
});

it('ends the handshake of who has none, or one of another CA, before a byte of HTTP is read', async () => {
  const foreign = await (await createAuthority('somebody else')).issueClient('developer');
  for (const who of ['nobody', foreign] as const) {
    const client = appliance.client(who);
    await expect(client.get('/v1/slots')).rejects.toThrow();
    client.close();
  }
});

it('answers 401 to a certificate of its CA that no identity has', async () => {
  const stranger = await home.addIdentity('stranger', ['signer'], ['main']); // after the start: not known to it
  const client = appliance.client(stranger);
  expectProblem(await client.get('/v1/slots'), 401, 'CREDENTIAL_UNKNOWN');
  client.close();
});
