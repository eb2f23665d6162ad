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

/** `keyslot slots open main` on a terminal of its own (util-linux script), typing once it asks for the PIN. */
function typing(keys: string): Promise<{ status: number | null; shown: string }> {
  const command = `'${keyslot}' slots open main --home '${home.path}'`;
  const child = spawn('script', ['-qec', command, '/dev/null'], { stdio: ['pipe', 'pipe', 'inherit'] });
  const { promise, resolve } = Promise.withResolvers<{ status: number | null; shown: string }>();
  let shown = '';
  let typed = false;
  child.stdout.on('data', chunk => {
    shown += String(chunk);
    if (!typed && shown.includes('PIN of slot main: ')) {
      typed = true;
      child.stdin.write(keys);
    }
  });
  child.on('exit', status => resolve({ status, shown }));
  return promise;
}

it('asks for a PIN on a terminal and does not show what is typed', async () => {
  const client = appliance.client();
  await client.post('/v1/slots/main/lock', {});
  const pin = home.secret('user.pin');
  const { status, shown } = await typing(`${pin}\r`);
  expect(status).toBe(0);
  expect(shown).not.toContain(pin);
  expect((await client.get('/v1/slots/main')).json.state).toBe('open');
  client.close();
});

it('is left with Ctrl-C and with Ctrl-D, as refused', async () => {
  for (const key of ['\x03', '\x04']) {
    const { status, shown } = await typing(key);
    expect(shown).toContain('REQUEST_ABORTED');
    expect(status).toBe(1);
  }
});
