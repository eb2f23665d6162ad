import { afterAll, beforeAll, expect, it } from 'vitest';
import { createAuthority } from '../../src/appliance/certificates.ts';
import { type Appliance, base64, expectProblem, type Home, prepareHome, serve } from './appliance.ts';

let home: Home;
let appliance: Appliance;

beforeAll(async () => {
  home = await prepareHome();
  home.configure(config => {
    config.profile = 'production';
    config.identities = config.identities.filter(identity => !('token' in identity));
  });
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
