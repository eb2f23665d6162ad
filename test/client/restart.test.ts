import { afterAll, beforeAll, expect, it } from 'vitest';
import { type ClientOptions, createKeyslotSigner } from '../../src/client/index.ts';
import { encodeBase58 } from '../../src/foundation/base58.ts';
import { type Appliance, eventually, type Home, prepareHome, serve } from '../e2e/appliance.ts';
import { isSignature } from '../e2e/transactions.ts';
import { clientOf, closedPort, codeOf } from './lab.ts';

/** Processes of a real appliance killed while its clients are waiting. */

let home: Home;
let appliance: Appliance;
let client: ReturnType<typeof clientOf>;

beforeAll(async () => {
  home = await prepareHome();
  // On ports that stay the same: the successor of a gateway has to be found.
  const [port, opsPort] = [String(await closedPort()), String(await closedPort())];
  appliance = await serve(home, {
    args: ['--home', home.path, '--port', port, '--ops-port', opsPort, '--json'],
  });
  // Patient enough for a machine that is busy with other things while a process is started anew.
  client = clientOf(home, appliance, 'developer', { retries: 20 });
  await client.keys.generate('k', 'main');
});

afterAll(async () => {
  const exit = await appliance?.stop();
  home?.remove();
  expect(exit?.status).toBe(0);
});

it.each(['gateway', 'custodian'] as const)(
  'signing goes on over the death of a %s: every call ends with its signature',
  async name => {
    const signer = await createKeyslotSigner({ client, keyId: 'k' });
    let signed = 0;
    let killed = false;
    const lane = async (lane: number) => {
      for (let at = 0; !killed || at < 20; at += 1) {
        const content = new TextEncoder().encode(`${name} ${lane} ${at}`);
        const [dictionary] = await signer.signMessages([{ content }]);
        const signature = encodeBase58(dictionary?.[signer.address] ?? new Uint8Array());
        expect(await isSignature(signer.address, content, signature)).toBe(true);
        signed += 1;
      }
    };
    const lanes = Promise.all(Array.from({ length: 16 }, (_, at) => lane(at)));
    await eventually('signatures before the kill', () => signed > 32);
    const pid = await appliance.child(name);
    process.kill(pid, 'SIGKILL');
    const successor = await appliance.child(name, pid);
    expect(successor).not.toBe(pid);
    killed = true;
    await lanes;
  },
);

it('what changes something is sent again under its idempotency key, and happens once', async () => {
  const ids = Array.from({ length: 40 }, (_, at) => `made-${at}`);
  let sent = 0;
  const counted: NonNullable<ClientOptions['fetch']> = (...request) => {
    sent += 1;
    return client.fetch(...request);
  };
  const { keys } = clientOf(home, appliance, 'developer', { retries: 20, fetch: counted });
  const pid = await appliance.child('gateway');
  const making = Promise.all(ids.map(id => keys.generate(id, 'main')));
  process.kill(pid, 'SIGKILL');
  const made = await making;
  expect(sent).toBeGreaterThan(ids.length);
  expect(made.map(({ id }) => id)).toEqual(ids);
  const listed = new Map<string, string>();
  for await (const { id, publicKey } of client.keys.all({ slot: 'main' })) listed.set(id, publicKey);
  for (const { id, publicKey } of made) expect(listed.get(id)).toBe(publicKey);
});

it('an appliance that has gone for good is CLIENT_NETWORK', async () => {
  const url = `https://127.0.0.1:${await closedPort()}`;
  expect(await codeOf(clientOf(home, { url }, 'developer', { retries: 2 }).keys.show('k'))).toBe(
    'CLIENT_NETWORK',
  );
});
