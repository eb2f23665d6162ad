import { spawn } from 'node:child_process';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { type Appliance, type Home, keyslot, prepareHome, serve } from './appliance.ts';

let home: Home;
let appliance: Appliance;

beforeAll(async () => {
  home = await prepareHome();
  appliance = await serve(home);
});

afterAll(async () => {
  await appliance?.stop();
  home?.remove();
});

interface Ended {
  readonly status: number | null;
  readonly shown: string;
}

/** A command on a terminal of its own (util-linux script), where something is typed once it shows what is waited for. */
function typing(keys: string, args: string, awaited: (shown: string) => boolean): Promise<Ended> {
  // In the place of the shell, which would end by Ctrl-C itself.
  const command = `exec '${keyslot}' ${args} --home '${home.path}'`;
  const child = spawn('script', ['-qec', command, '/dev/null'], { stdio: ['pipe', 'pipe', 'inherit'] });
  const { promise, resolve } = Promise.withResolvers<Ended>();
  let shown = '';
  let typed = false;
  child.stdout.on('data', chunk => {
    shown += String(chunk);
    if (!typed && awaited(shown)) {
      typed = true;
      child.stdin.write(keys);
    }
  });
  child.on('exit', status => resolve({ status, shown }));
  return promise;
}

const openingMain = (keys: string): Promise<Ended> =>
  typing(keys, 'slots open main', shown => shown.includes('PIN of slot main: '));

it('asks for a PIN on a terminal and does not show what is typed', async () => {
  const client = appliance.client();
  await client.post('/v1/slots/main/lock', {});
  const pin = home.secret('user.pin');
  const { status, shown } = await openingMain(`${pin}\r`);
  expect(status).toBe(0);
  expect(shown).not.toContain(pin);
  expect((await client.get('/v1/slots/main')).json.state).toBe('open');
  client.close();
});

it('is left with Ctrl-C and with Ctrl-D, as refused', async () => {
  for (const key of ['\x03', '\x04']) {
    const { status, shown } = await openingMain(key);
    expect(shown).toContain('REQUEST_ABORTED');
    expect(status).toBe(1);
  }
});

it('is painted anew by status --watch at every look, until Ctrl-C, which is no failure', async () => {
  const looks = (shown: string) => shown.split('\x1b[H\x1b[J').length - 1;
  const { status, shown } = await typing('\x03', 'status --watch', text => looks(text) > 1);
  expect(status).toBe(0);
  expect(looks(shown)).toBeGreaterThan(1);
  for (const painted of shown.split('\x1b[H\x1b[J').slice(1)) expect(painted).toContain('slot main');
});
