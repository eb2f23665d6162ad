import { chmodSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, afterEach, describe, expect, it } from 'vitest';
import type { Config, SecretSource } from '../../src/appliance/config.ts';
import {
  childEnvironment,
  credentialsFolder,
  environmentVariable,
  homeFromEnvironment,
} from '../../src/appliance/environment.ts';
import { readSecret } from '../../src/appliance/secrets.ts';

const home = mkdtempSync(join(tmpdir(), 'keyslot-secrets-'));
const environment = { ...process.env };

afterEach(() => {
  process.env = { ...environment };
});
afterAll(() => rmSync(home, { recursive: true, force: true }));

async function textOf(source: SecretSource): Promise<string> {
  // Only the folder of a configuration matters to secrets.
  using secret = await readSecret({ home } as Config, source, 'slots.main.pin');
  return secret.useText(text => text);
}

function file(name: string, content: string, mode = 0o600): string {
  const path = join(home, name);
  writeFileSync(path, content);
  chmodSync(path, mode);
  return name;
}

const unreadable = (setting: string) =>
  expect.objectContaining({ code: 'SECRET_UNREADABLE', message: expect.stringContaining(setting) });

describe('a secret file', () => {
  it('is read from the state folder or by its absolute path, without the line break at its end', async () => {
    for (const content of ['1234', '1234\n', '1234\r\n', '1234\nsecond line\n']) {
      const name = file('pin', content);
      expect(await textOf({ file: name })).toBe('1234');
      expect(await textOf({ file: join(home, name) })).toBe('1234');
    }
  });

  it('keeps spaces and letters of any language', async () => {
    expect(await textOf({ file: file('pin', ' pässwörd \n') })).toBe(' pässwörd ');
  });

  it('is read anew each time', async () => {
    expect(await textOf({ file: file('changing', 'old') })).toBe('old');
    expect(await textOf({ file: file('changing', 'new') })).toBe('new');
  });

  it.each([0o644, 0o640, 0o604, 0o660, 0o620, 0o601])('with mode %o is refused', async mode => {
    const read = textOf({ file: file('loose', '1234', mode) });
    await expect(read).rejects.toEqual(unreadable('slots.main.pin.file'));
  });

  it.each([0o600, 0o400, 0o700])('with mode %o is read', async mode => {
    expect(await textOf({ file: file('strict', '1234', mode) })).toBe('1234');
    rmSync(join(home, 'strict'));
  });

  it('is judged by what a link leads to', async () => {
    file('target', '1234', 0o644);
    symlinkSync('target', join(home, 'link'));
    await expect(textOf({ file: 'link' })).rejects.toEqual(unreadable('slots.main.pin.file'));
  });

  it('that is empty, missing or a folder is refused, and what it holds is not repeated', async () => {
    for (const name of [file('empty', ''), file('line', '\n'), 'missing', '.']) {
      await expect(textOf({ file: name })).rejects.toEqual(unreadable('slots.main.pin.file'));
    }
    const loose = textOf({ file: file('canary', 'canary-5up3r', 0o644) });
    await expect(loose).rejects.not.toHaveProperty('message', expect.stringContaining('canary-5up3r'));
  });
});

describe('a secret variable', () => {
  it('is read, and refused when it is not set or empty', async () => {
    process.env.KEYSLOT_TEST_PIN = '1234';
    expect(await textOf({ env: 'KEYSLOT_TEST_PIN' })).toBe('1234');
    for (const value of ['', undefined]) {
      if (value === undefined) delete process.env.KEYSLOT_TEST_PIN;
      else process.env.KEYSLOT_TEST_PIN = value;
      await expect(textOf({ env: 'KEYSLOT_TEST_PIN' })).rejects.toEqual(unreadable('slots.main.pin.env'));
    }
  });
});

describe('a systemd credential', () => {
  it('is read from the folder that systemd names, with the mode that systemd gives it', async () => {
    process.env.CREDENTIALS_DIRECTORY = home;
    expect(credentialsFolder()).toBe(home);
    expect(await textOf({ credential: file('hsm-pin', '1234\n', 0o440) })).toBe('1234');
    await expect(textOf({ credential: 'none' })).rejects.toEqual(unreadable('slots.main.pin.credential'));
  });

  it('is refused outside systemd', async () => {
    delete process.env.CREDENTIALS_DIRECTORY;
    const read = textOf({ credential: 'hsm-pin' });
    await expect(read).rejects.toEqual(unreadable('slots.main.pin.credential'));
  });
});

describe('the environment', () => {
  it('names the state folder, or does not', () => {
    process.env.KEYSLOT_HOME = '/srv/keyslot';
    expect(homeFromEnvironment()).toBe('/srv/keyslot');
    process.env.KEYSLOT_HOME = '';
    expect(homeFromEnvironment()).toBeUndefined();
    expect(environmentVariable('KEYSLOT_TEST_NOT_SET')).toBeUndefined();
  });

  it('of a child process has what is named and nothing else', () => {
    process.env = {
      PATH: '/bin',
      LANG: 'C',
      AWS_SECRET_ACCESS_KEY: 'x',
      NODE_OPTIONS: '--inspect',
      HSM_PIN: '1',
    };
    expect(childEnvironment({})).toEqual({ PATH: '/bin', LANG: 'C' });
    expect(childEnvironment({ SOFTHSM2_CONF: '/x', LANG: 'D' }, ['HSM_PIN', 'ABSENT'])).toEqual({
      PATH: '/bin',
      LANG: 'D',
      SOFTHSM2_CONF: '/x',
      HSM_PIN: '1',
    });
  });
});
