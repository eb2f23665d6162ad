import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { createKeyslotClient, createKeyslotSigner, type KeyslotClient } from '../../src/client/index.ts';
import { mtlsFetch } from '../../src/client/node.ts';
import { type Appliance, eventually, type Home, prepareHome, serve, tlsOf } from '../e2e/appliance.ts';
import { clientOf, codeOf, FalseAppliance, problem, tell } from './lab.ts';

/** PIN sessions that the client keeps, on a real appliance whose sessions end soon. */

const idle_s = 3;

let home: Home;
let appliance: Appliance;
let developer: KeyslotClient;

beforeAll(async () => {
  home = await prepareHome();
  home.configure(config => {
    config.sessions = { idle_s, absolute_s: 3_600 };
    for (const id of ['session', 'other']) {
      config.slots.push({ id, engine: 'memory', pin: { file: 'secrets/user.pin' }, access: 'session' });
    }
  });
  const names = ['right', 'wrong', 'hasty', 'own'];
  for (const name of names) issued.set(name, await home.addIdentity(name, ['signer'], ['session', 'other']));
  issued.set('ungranted', await home.addIdentity('ungranted', ['signer'], []));
  appliance = await serve(home);
  developer = clientOf(home, appliance);
  for (const slot of ['session', 'other']) await developer.keys.generate(`in-${slot}`, slot);
});

afterAll(async () => {
  const exit = await appliance?.stop();
  home?.remove();
  expect(exit?.status).toBe(0);
});

const issued = new Map<string, Awaited<ReturnType<Home['addIdentity']>>>();
const message = new TextEncoder().encode('hello');

/** A client with a session, and what it asked. */
function sessionClient(who: string, pin: () => string | Promise<string>) {
  const { ca, cert, key } = tlsOf(home, issued.get(who) ?? 'nobody') as {
    ca: Buffer;
    cert: Buffer;
    key: Buffer;
  };
  const fetch = mtlsFetch({ ca, certificate: cert, key });
  const asked: string[] = [];
  const client = createKeyslotClient({
    url: appliance.url,
    auth: { session: { slot: 'session', pin } },
    fetch: (url, init) => {
      asked.push(`${init.method} ${new URL(url).pathname.replace('/v1', '')}`);
      return fetch(url, init);
    },
  });
  return { client, asked };
}

const rightPin = () => home.secret('user.pin');
const opening = 'POST /slots/session/sessions';
const count = (asked: readonly string[], what: string) => asked.filter(each => each === what).length;

describe('the session of a client', () => {
  it('is opened once for all who need it, and closed with the client', async () => {
    const { client, asked } = sessionClient('right', async () => rightPin());
    expect(await codeOf(developer.signMessage('in-session', message))).toBe('SESSION_REQUIRED');
    const signer = await createKeyslotSigner({ client, keyId: 'in-session' });
    expect(asked).toEqual(['GET /keys/in-session']);
    const signed = await Promise.all(
      Array.from({ length: 50 }, (_, at) => signer.signMessages([{ content: Uint8Array.of(at) }])),
    );
    expect(signed.flat()).toHaveLength(50);
    expect(count(asked, opening)).toBe(1);
    await client.close();
    expect(asked.at(-1)).toBe('DELETE /sessions/current');
    expect(await codeOf(client.signMessage('in-session', message))).toBe('CLIENT_ABORTED');
  });

  it('shows and signs with a key of whose slot the identity has no grant, also after it has expired', async () => {
    const { client, asked } = sessionClient('ungranted', rightPin);
    const signer = await createKeyslotSigner({ client, keyId: 'in-session' });
    expect(count(asked, opening)).toBe(1);
    expect(await signer.signMessages([{ content: message }])).toHaveLength(1);
    await new Promise(done => setTimeout(done, idle_s * 1_000 + 300));
    expect((await client.keys.show('in-session')).id).toBe('in-session');
    expect(count(asked, opening)).toBe(2);
    expect(await codeOf(client.keys.show('in-other'))).toBe('KEY_UNKNOWN'); // the session is of another slot
    expect(await codeOf(client.keys.show('no-such-key'))).toBe('KEY_UNKNOWN');
    await client.close();
  });

  it('is opened again after it has expired, once for all who find out', async () => {
    const { client, asked } = sessionClient('right', rightPin);
    const first = await client.signMessage('in-session', message);
    await new Promise(done => setTimeout(done, idle_s * 1_000 + 300));
    const again = await Promise.all(
      Array.from({ length: 20 }, () => client.signMessage('in-session', message)),
    );
    for (const { signature } of again) expect(signature).toEqual(first.signature);
    expect(count(asked, opening)).toBe(2);
    await client.close();
  });

  it('is opened again after the slot was locked and opened', async () => {
    const { client, asked } = sessionClient('right', rightPin);
    await client.signMessage('in-session', message);
    await developer.slots.lock('session');
    await developer.slots.open('session', rightPin());
    expect((await client.signMessage('in-session', message)).signature).toHaveLength(64);
    expect(count(asked, opening)).toBe(2);
    await client.close();
  });

  it('does not send a PIN again that was refused, and another one when there is', async () => {
    let pin = 'wrong';
    const { client, asked } = sessionClient('wrong', () => pin);
    for (let calls = 0; calls < 3; calls += 1) {
      expect(await codeOf(client.signMessage('in-session', message))).toBe('PIN_INCORRECT');
    }
    expect(asked).toEqual([opening]);
    pin = rightPin();
    const signature = await eventually('a signature once the rate limit is over', async () => {
      const answer = await client
        .signMessage('in-session', message)
        .catch((error: { code: string }) => error);
      if ('code' in answer) expect(answer.code).toBe('PIN_RATE_LIMITED');
      return 'signature' in answer && answer.signature;
    });
    expect(signature).toHaveLength(64);
    await client.close();
  });

  it('ends a call whose PIN cannot be had, or that does not want to wait for it', async () => {
    const broken = sessionClient('hasty', () => {
      throw new Error('no PIN pad');
    });
    for (let calls = 0; calls < 2; calls += 1) {
      await expect(broken.client.signMessage('in-session', message)).rejects.toThrow('no PIN pad');
    }
    const { promise, resolve } = Promise.withResolvers<string>();
    const { client, asked } = sessionClient('hasty', () => promise);
    const abort = new AbortController();
    const hasty = codeOf(client.signMessage('in-session', message, { signal: abort.signal }));
    const patient = client.signMessage('in-session', message);
    abort.abort();
    expect(await hasty).toBe('CLIENT_ABORTED');
    resolve(rightPin());
    expect((await patient).signature).toHaveLength(64);
    expect(count(asked, opening)).toBe(1);
    await client.close();
  });

  it('is not opened a third time for one call, and its end does not depend on the appliance', async () => {
    await using appliance = await FalseAppliance.start((response, { path }) => {
      const session = { token: 'x'.repeat(43), slot: 'session', expiresAt: '', idle_s: 1 };
      if (path.endsWith('/sessions')) tell(response, 201, session);
      else tell(response, 401, problem('SESSION_EXPIRED', false));
    });
    const auth = { session: { slot: 'session', pin: () => '1234' } };
    const client = createKeyslotClient({ url: appliance.url, auth });
    expect(await codeOf(client.signMessage('k', message))).toBe('SESSION_EXPIRED');
    expect(appliance.asked.filter(({ path }) => path.endsWith('/sessions'))).toHaveLength(2);
    await client.close();
  });
});

describe('a session of the caller', () => {
  it('is opened, used and closed by hand', async () => {
    const client = clientOf(home, appliance, issued.get('own'));
    const { token, slot } = await client.sessions.open('other', rightPin());
    expect(slot).toBe('other');
    const sign = () => client.signMessage('in-other', message, { session: token });
    expect((await sign()).signature).toHaveLength(64);
    expect(await codeOf(developer.signMessage('in-other', message, { session: token }))).toBe(
      'SESSION_FOREIGN',
    );
    await client.sessions.close(token);
    expect(await codeOf(sign())).toBe('SESSION_EXPIRED');
  });
});
