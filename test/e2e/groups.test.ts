import { afterAll, beforeAll, expect, it } from 'vitest';
import { decodeBase58 } from '../../src/foundation/base58.ts';
import { createVerifier } from '../../src/foundation/ed25519.ts';
import type { GroupView } from '../../src/wire/groups.ts';
import { Faulty } from '../engines/pkcs11/faulty/faulty.ts';
import {
  type Appliance,
  base64,
  type Client,
  eventually,
  type Home,
  keyslot,
  prepareHome,
  run,
  serve,
  tokenLabel,
} from './appliance.ts';

/** Two tokens behind a module that can take one of them away, and a key that both of them hold. */
let home: Home;
let faulty: Faulty;
let appliance: Appliance;
let client: Client;

beforeAll(async () => {
  home = await prepareHome();
  await home.addToken('mate');
  faulty = await Faulty.make({ inner: home.module });
  home.configure(config => {
    const [main] = config.slots;
    const environment = { ...(main?.settings?.environment as object), ...faulty.environment };
    const settings = (label: string) => ({ module: faulty.modulePath, tokenLabel: label, environment });
    config.slots = ['main', 'spare'].map(id => ({
      ...main,
      pin: main?.pin,
      id,
      settings: settings(id === 'main' ? tokenLabel : 'mate'),
    }));
    config.groups = [{ id: 'treasury', members: [{ slot: 'main' }, { slot: 'spare' }] }];
  });
  appliance = await serve(home);
  client = appliance.client();
});

afterAll(async () => {
  client?.close();
  await appliance?.stop();
  faulty?.[Symbol.dispose]();
  home?.remove();
});

const groupStatus = async (): Promise<GroupView | undefined> => {
  const { stdout, status } = await run(keyslot, ['groups', 'status', '--home', home.path, '--json']);
  expect(status).toBe(0);
  return (JSON.parse(stdout) as { groups: GroupView[] }).groups[0];
};

const state = async () => {
  const { groups } = (await client.get('/v1/groups')).json as unknown as { groups: GroupView[] };
  return groups[0]?.state;
};

/** In which slots the signatures were made since a place in the log. */
async function signedIn(from: number): Promise<string[]> {
  const reply = await client.get(`/v1/audit?from=${from}&limit=500`);
  const { lines = [] } = reply.json as unknown as { lines?: readonly string[] };
  return lines
    .map(line => JSON.parse(line) as { type: string; operation: string; outcome?: string; slot: string })
    .filter(({ type, operation }) => type === 'result' && operation === 'sign-message')
    .map(({ slot, outcome }) => `${slot} ${outcome}`);
}

const logSize = async () => Number(((await client.get('/v1/audit/status')).json as { size?: number }).size);

it('loses no request when one of its two tokens goes, says that it is degraded, and uses the token again', async () => {
  const seed = base64(new Uint8Array(32).fill(5));
  const first = await client.post('/v1/keys/treasurer/import', { slot: 'main', seed });
  expect(first.status).toBe(201);
  const copy = await client.post('/v1/keys/treasurer/import', { slot: 'spare', seed });
  expect([copy.status, copy.json.slot]).toEqual([201, 'main']);
  expect(await state()).toBe('serving');

  const verifier = createVerifier(decodeBase58(first.json.publicKey ?? '') ?? new Uint8Array());
  const failed: string[] = [];
  let next = 0;
  const lane = async () => {
    for (let at = next++; at < 300; at = next++) {
      if (at === 100) faulty.removeToken({ token: tokenLabel });
      const message = `payment ${at}`;
      const { status, text, json } = await client.post('/v1/keys/treasurer/sign-message', {
        message: base64(message),
      });
      const signature = Buffer.from(json.signatureBase64 ?? '', 'base64');
      const good = status === 200 && (await verifier.verify(Buffer.from(message), signature));
      if (!good) failed.push(`${at} ${status} ${text}`);
    }
  };
  await Promise.all(Array.from({ length: 16 }, lane));
  expect(failed).toEqual([]);

  const degraded = await groupStatus();
  expect(degraded).toMatchObject({ id: 'treasury', state: 'degraded' });
  expect(degraded?.members.map(({ slot, circuit }) => [slot, circuit])).toEqual([
    ['main', 'open'],
    ['spare', 'closed'],
  ]);
  const { stdout } = await run(keyslot, ['groups', 'status', '--home', home.path]);
  expect(stdout).toMatch(/^treasury +degraded +main +1 +(degraded|failed) +open /m);

  faulty.returnToken(tokenLabel);
  await eventually('the group serves again', async () => (await state()) === 'serving');
  const from = await logSize();
  for (let at = 0; at < 6; at += 1) {
    const reply = await client.post('/v1/keys/treasurer/sign-message', { message: base64(`again ${at}`) });
    expect(reply.status).toBe(200);
  }
  expect((await signedIn(from)).toSorted()).toEqual([
    ...Array(3).fill('main ok'),
    ...Array(3).fill('spare ok'),
  ]);
});

it('starts while one of its tokens is away, and signs', async () => {
  await appliance.stop();
  client.close();
  faulty.removeToken({ token: tokenLabel });
  appliance = await serve(home);
  client = appliance.client();
  const reply = await client.post('/v1/keys/treasurer/sign-message', { message: base64('early') });
  expect(reply.status).toBe(200);
  expect(await state()).toBe('degraded');
  faulty.returnToken(tokenLabel);
  await eventually('the group serves again', async () => (await state()) === 'serving');
});
