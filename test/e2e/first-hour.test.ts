import { verify } from 'node:crypto';
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { readConfig } from '../../src/appliance/config.ts';
import { findSoftHsm, softhsmConf } from '../../src/appliance/development.ts';
import { createToken } from '../../src/appliance/tokens.ts';
import { Secret } from '../../src/foundation/secret.ts';
import { type Appliance, compiled, keyslot, run, serve } from './appliance.ts';

/** The first hour of a newcomer with a token of their own: `keyslot init`, `keyslot serve`, a signature. */

const folder = mkdtempSync(join(tmpdir(), 'keyslot-first-hour-'));
const home = join(folder, "the appliance's home"); // what is printed must be fit for a shell
let next: readonly string[];
let appliance: Appliance;

beforeAll(async () => {
  const module = findSoftHsm();
  const conf = join(folder, 'softhsm2.conf');
  const pinFile = join(folder, 'user.pin');
  mkdirSync(join(folder, 'tokens'));
  writeFileSync(conf, softhsmConf(join(folder, 'tokens')));
  writeFileSync(pinFile, 'a-pin-of-mine\n', { mode: 0o600 });
  using soPin = Secret.fromText('an-officer');
  using userPin = Secret.fromText('a-pin-of-mine');
  await createToken({ module, label: 'mine', soPin, userPin }, { SOFTHSM2_CONF: conf, ...compiled });
  const flags = ['--hsm', 'softhsm2', '--token', 'mine', '--pin-file', pinFile, '--port', '0', '--json'];
  // The library's settings are those of the shell that it is started from.
  const made = await run(keyslot, ['init', '--home', home, ...flags], {
    environment: { SOFTHSM2_CONF: conf },
  });
  expect(made).toMatchObject({ status: 0, stderr: '' });
  const said = JSON.parse(made.stdout) as { next: string[]; problems: unknown[]; warnings: string[] };
  expect(said.problems).toEqual([]);
  expect(said.warnings.join()).toContain('--audit-token');
  next = said.next;
  const [slot] = readConfig(home).slots;
  const settings = { module, profile: 'softhsm2', tokenLabel: 'mine', mode: 'native' };
  expect(slot).toMatchObject({ engine: 'pkcs11', pin: { file: pinFile }, settings });
  appliance = await serve({ path: home, log: join(folder, 'log') }, { args: ['--home', home, '--json'] });
});

afterAll(async () => {
  await appliance?.stop();
  rmSync(folder, { recursive: true, force: true });
});

const printed = (name: string): string => next.find(line => line.includes(` ${name} `)) ?? '';
const shell = (line: string) =>
  run('bash', ['--norc', '-c', line], { environment: { SOFTHSM2_CONF: undefined } });

it('leads to a verified signature by the client’s certificate, by the commands as they were printed', async () => {
  const made = await shell(`${printed('keys generate')} --json`);
  expect(made).toMatchObject({ status: 0, stderr: '' });
  const { publicKeyBase64, custody } = JSON.parse(made.stdout) as Record<string, string>;
  expect(custody).toBe('hsm-native');
  const signed = await shell(`${printed('sign first')} --json`);
  expect(signed).toMatchObject({ status: 0, stderr: '' });
  const { signatureBase64 = '' } = JSON.parse(signed.stdout) as Record<string, string>;
  const x = Buffer.from(publicKeyBase64 ?? '', 'base64').toString('base64url');
  const publicKey = { key: { kty: 'OKP', crv: 'Ed25519', x }, format: 'jwk' } as const;
  expect(
    verify(null, Buffer.from('Hello from Keyslot'), publicKey, Buffer.from(signatureBase64, 'base64')),
  ).toBe(true);
  const asOperator = await shell(printed('sign first').replace('--as client', '--as operator'));
  expect(asOperator.stderr).toContain('PERMISSION_DENIED');
});

it('completes the id of the key', async () => {
  const { stdout } = await run(keyslot, ['completion', 'keys', '--home', home]);
  expect(stdout).toBe('first\n');
});

it('shows itself in colour on a terminal, and without where NO_COLOR asks for none', async () => {
  const onTerminal = (more: Record<string, string>) =>
    run('script', ['-qec', printed('status'), '/dev/null'], {
      environment: { NO_COLOR: undefined, FORCE_COLOR: undefined, CI: undefined, TERM: 'xterm', ...more },
    });
  const [coloured, plain] = await Promise.all([onTerminal({}), onTerminal({ NO_COLOR: '1' })]);
  const shown = coloured.stdout.replaceAll('\x1b', '^');
  expect(shown).toMatch(/slot main +\^\[32mopen\^\[39m +hsm-native, canary proven/);
  expect(plain.stdout).toMatch(/slot main +open +hsm-native, canary proven/);
});

it('shows how far a long command is on a terminal, and nothing of it in a pipe', async () => {
  const log = join(home, 'state', 'audit');
  const exportTo = (name: string) => ['audit', 'export', '--folder', log, '--output', join(folder, name)];
  const quoted = exportTo('watched.jsonl').map(word => `"${word}"`);
  const [watched, piped] = await Promise.all([
    run('script', ['-qec', [keyslot, ...quoted].join(' '), '/dev/null']),
    run(keyslot, exportTo('piped.jsonl')),
  ]);
  expect(watched.stdout).toMatch(/exporting \[#{30}\] (\d+)\/\1 records/);
  expect(piped).toMatchObject({ status: 0, stderr: '' });
  expect(piped.stdout).not.toContain('exporting');
});
