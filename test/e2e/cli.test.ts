import { mkdirSync, readFileSync, symlinkSync, writeFileSync } from 'node:fs';
import { basename, dirname, join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { decodeBase58, encodeBase58 } from '../../src/foundation/base58.ts';
import {
  type Answer,
  type Appliance,
  base64,
  childrenOf,
  type Home,
  keyslot,
  prepareHome,
  type Ran,
  run,
  serve,
} from './appliance.ts';
import { isSignature, type Other, other, readWire, transfers } from './transactions.ts';

let home: Home;
let appliance: Appliance;
let seed: Other;
let address: string;
/** Everything that any command printed. */
let printed = '';

beforeAll(async () => {
  home = await prepareHome();
  appliance = await serve(home);
  seed = other();
  const { json } = await command(['keys', 'generate', 'k', '--slot', 'main', '--json']);
  address = json.publicKey ?? '';
});

afterAll(async () => {
  expect((await appliance?.stop())?.status).toBe(0);
  home?.remove();
});

type Options = Parameters<typeof run>[2] & { program?: string; home?: boolean };

async function command(args: readonly string[], options: Options = {}): Promise<Ran & { json: Answer }> {
  const { program = keyslot, home: named = true } = options;
  const ran = await run(program, named ? [...args, '--home', home.path] : args, options);
  printed += ran.stdout + ran.stderr;
  return { ...ran, json: ran.stdout.trim().startsWith('{') ? JSON.parse(ran.stdout) : {} };
}

/** The code of a refusal with --json, after an exit status of 1. */
async function refusedWith(args: readonly string[], options: Options = {}): Promise<unknown> {
  const { status, json } = await command([...args, '--json'], options);
  expect(status).toBe(1);
  return (json as { error?: { code: string } }).error?.code;
}

const decoded = (base58: string): Uint8Array => decodeBase58(base58) ?? new Uint8Array();

const file = (name: string, content: string | Uint8Array): string => {
  const path = join(dirname(home.path), name);
  writeFileSync(path, content, { mode: 0o600 });
  return path;
};

describe('keyslot slots', () => {
  it('lists and shows, as a table for people and as JSON', async () => {
    const table = await command(['slots', 'list']);
    expect(table.status).toBe(0);
    expect(table.stdout.split('\n')[0]).toMatch(/^SLOT +STATE +CUSTODY +ACCESS +WHAT$/);
    expect(table.stdout.split('\n')[1]).toMatch(/^main +open +hsm-native +identity +token "keyslot"/);
    const { json } = await command(['slots', 'list', '--json']);
    expect(json.slots?.map(slot => slot.id)).toEqual(['main']);
    const shown = await command(['slots', 'show', 'main']);
    expect(shown.stdout).toMatch(/^state +open$/m);
    expect((await command(['slots', 'show', 'main', '--json'])).json).toEqual(json.slots?.[0]);
    expect(await refusedWith(['slots', 'show', 'none'])).toBe('SLOT_UNKNOWN');
  });

  it('locks, opens with a PIN from a file, and with the configured one', async () => {
    expect((await command(['slots', 'lock', 'main'])).stdout).toMatch(/^state +locked$/m);
    expect(await refusedWith(['sign', 'k', '--message', 'x'])).toBe('SLOT_LOCKED');
    const pinFile = join(home.path, 'secrets', 'user.pin');
    const opened = await command(['slots', 'open', 'main', '--pin-file', pinFile, '--json']);
    expect(opened.json.state).toBe('open');
    await command(['slots', 'lock', 'main']);
    expect((await command(['slots', 'open', 'main', '--configured', '--json'])).json.state).toBe('open');
    const wrong = file('wrong.pin', 'not-the-pin\n');
    expect(await refusedWith(['slots', 'open', 'main', '--pin-file', wrong])).toBe('PIN_INCORRECT');
    expect(await refusedWith(['slots', 'open', 'main', '--pin-file', '/nowhere'])).toBe('SECRET_UNREADABLE');
    expect(await refusedWith(['slots', 'open', 'main', '--pin-file', file('no.pin', '\n')])).toBe(
      'SECRET_UNREADABLE',
    );
    expect(await refusedWith(['slots', 'open', 'main'])).toBe('SECRET_UNREADABLE'); // no terminal to ask at
    expect((await command(['slots', 'clear-latch', 'main', '--json'])).json.state).toBe('open');
    expect((await command(['slots', 'try', 'main'])).stdout).toMatch(/^signs +true$/m);
  });
});

describe('keyslot keys', () => {
  it('generates, lists and shows', async () => {
    const made = await command(['keys', 'generate', 'second', '--slot', 'main']);
    expect(made.stdout).toMatch(/^origin +generated$/m);
    expect(made.stdout).toMatch(/^extractable +false$/m);
    const { json } = await command(['keys', 'list', '--json']);
    expect(json.keys?.map(key => key.id)).toContain('second');
    const table = (await command(['keys', 'list', '--slot', 'main'])).stdout;
    expect(table.split('\n')[0]).toMatch(/^KEY +SLOT +ADDRESS +CUSTODY +STATE$/);
    expect(table).toMatch(new RegExp(`^k +main +${address} +hsm-native +active$`, 'm'));
    expect((await command(['keys', 'show', 'k', '--json'])).json.publicKey).toBe(address);
    expect(await refusedWith(['keys', 'generate', 'k', '--slot', 'main'])).toBe('KEY_EXISTS');
    expect(await refusedWith(['keys', 'show', 'none'])).toBe('KEY_UNKNOWN');
    expect(await refusedWith(['keys', 'show', '../k'])).toBe('KEY_ID_INVALID');
  });

  it('imports every form in which Solana tools write a key, from a file and from standard input', async () => {
    const secretKey = Buffer.concat([seed.seed, publicHalf(seed)]);
    const forms = {
      array: JSON.stringify([...secretKey]),
      base58: `${encodeBase58(secretKey)}\n`,
      hex: seed.seed.toString('hex'),
      seed58: encodeBase58(seed.seed),
      seed64: base64(seed.seed),
    };
    await Promise.all(
      Object.entries(forms).map(async ([name, text]) => {
        const args = [
          'keys',
          'import',
          `from-${name}`,
          '--slot',
          'main',
          '--file',
          file(`${name}.key`, text),
        ];
        const imported = await command([...args, '--json']);
        expect([name, imported.json.publicKey]).toEqual([name, seed.address]);
      }),
    );
    const piped = ['keys', 'import', 'from-stdin', '--slot', 'main', '--file', '-', '--json'];
    expect((await command(piped, { input: forms.array })).json.publicKey).toBe(seed.address);
    const wrong = { ...forms, array: JSON.stringify([...secretKey.toReversed()]), broken: `[${forms.array}` };
    for (const name of ['array', 'broken'] as const) {
      const args = ['keys', 'import', 'bad', '--slot', 'main', '--file', file('bad.key', wrong[name])];
      expect(await refusedWith(args)).toBe('KEY_MATERIAL_INVALID');
      expect((await command(args)).status).toBe(1);
    }
  });

  const publicHalf = (of: Other): Buffer => Buffer.from(decoded(of.address));
});

describe('keyslot sign and verify', () => {
  it('signs a text, a file and standard input, and verifies what it signed', async () => {
    const bytes = Buffer.from([1, 2, 3, 0xff, 0]);
    const signings: [string[], Buffer, string?][] = [
      [['--message', 'a text'], Buffer.from('a text')],
      [['--message-file', file('message', bytes)], bytes],
      [['--message-file', '-'], Buffer.from('piped'), 'piped'],
    ];
    for (const [args, message, input] of signings) {
      const options = input === undefined ? {} : { input };
      const { status, json } = await command(['sign', 'k', ...args, '--json'], options);
      expect(status).toBe(0);
      expect(await isSignature(address, message, json.signature)).toBe(true);
      const signature = (input === undefined ? json.signature : json.signatureBase64) ?? '';
      const verified = await command(['verify', 'k', ...args, '--signature', signature], options);
      expect(verified).toMatchObject({ status: 0, stdout: 'valid\n' });
    }
    const signature = encodeBase58(seed.sign(Buffer.from('a text'))); // of another key
    const invalid = await command(['verify', 'k', '--message', 'a text', '--signature', signature]);
    expect(invalid).toMatchObject({ status: 1, stdout: 'NOT valid\n' });
    const table = await command(['sign', 'k', '--message', 'a text']);
    expect(table.stdout).toMatch(/^signature +\w+$/m);
  });

  it('signs a transaction that is given, in a file, and piped', async () => {
    const wire = transfers('v0', [address]);
    const text = base64(wire);
    const ways: [string[], string?][] = [
      [['--transaction', text]],
      [['--transaction-file', file('transaction', `${text}\n`)]],
      [['--transaction-file', '-'], text],
    ];
    for (const [args, input] of ways) {
      const { json } = await command(['sign', 'k', ...args, '--json'], input === undefined ? {} : { input });
      expect(json.version).toBe('v0');
      expect(await isSignature(address, readWire(wire).message, json.signature)).toBe(true);
    }
    expect(await refusedWith(['sign', 'k', '--transaction', base64('nonsense')])).toMatch(/^TRANSACTION_/);
  });

  it('an empty transaction is an empty transaction, and never a message from standard input', async () => {
    const input = 'signed by mistake';
    expect(await refusedWith(['sign', 'k', '--transaction', ''], { input })).toBe('TRANSACTION_TRUNCATED');
    const empty = ['sign', 'k', '--transaction-file', file('empty', '\n')];
    expect(await refusedWith(empty, { input })).toBe('TRANSACTION_TRUNCATED');
  });
});

describe('keyslot doctor', () => {
  it('finds no problem in a good configuration', async () => {
    const { status, stdout } = await command(['doctor']);
    expect(status).toBe(0);
    expect(stdout).toMatch(/^EdDSA +yes$/m);
    expect(stdout).toContain('No problem found.');
    const { json } = await command(['doctor', '--json']);
    expect(json.slots?.[0]).toMatchObject({
      slot: 'main',
      problems: [],
      token: { label: 'keyslot', pin: 'set' },
    });
  });

  it('says what is wrong and what to do about it', async () => {
    const other = await prepareHome({ token: false });
    const doctor = async () => {
      const ran = await run(keyslot, ['doctor', '--home', other.path, '--json']);
      printed += ran.stdout + ran.stderr;
      expect(ran.status).toBe(1);
      const { slots } = JSON.parse(ran.stdout) as {
        slots: { problems: { code: string; remedy: string }[] }[];
      };
      for (const { remedy } of slots[0]?.problems ?? []) expect(remedy.length).toBeGreaterThan(10);
      return slots[0]?.problems.map(problem => problem.code);
    };
    expect(await doctor()).toEqual(['TOKEN_NOT_FOUND']);
    other.configure(config => {
      for (const slot of config.slots) {
        slot.pin = { file: 'secrets/absent.pin' };
        slot.settings = { ...slot.settings, module: '/etc/hostname' };
      }
    });
    expect(await doctor()).toEqual(['SECRET_UNREADABLE', 'MODULE_UNUSABLE']);
    const people = await run(keyslot, ['doctor', '--home', other.path]);
    expect(people.stdout.match(/^ {2}to do: /gm)).toHaveLength(2);
    other.remove();
  });
});

describe('exit status 2', () => {
  it.concurrent.each([
    [],
    ['nonsense'],
    ['slots'],
    ['slots', 'nonsense'],
    ['slots', 'show'],
    ['slots', 'list', '--nonsense'],
    ['slots', 'open', 'main', '--pin', '1234'],
    ['keys', 'generate', 'x'],
    ['keys', 'import', 'x', '--slot', 'main'],
    ['keys', 'import', 'x', '--slot', 'main', '--seed', 'abc'],
    ['sign', 'k'],
    ['sign', 'k', '--message', 'a', '--transaction', 'b'],
    ['verify', 'k', '--message', 'a'],
    ['verify', 'k', '--signature', 'a'],
    ['serve', '--port', 'abc'],
    ['serve', '--port', '65536'],
    ['doctor', 'too', 'many'],
  ])('is for misuse: keyslot %s %s %s', async (...args) => {
    const { status, stdout, stderr } = await command(args, { home: false });
    expect({ status, stdout }).toEqual({ status: 2, stdout: '' });
    expect(stderr).not.toBe('');
  });

  it('is not for help and version', async () => {
    for (const args of [['--help'], ['--version'], ['sign', '--help']]) {
      expect(await command(args, { home: false })).toMatchObject({ status: 0, stderr: '' });
    }
  });
});

describe('bin/keyslot', () => {
  it('finds its home by --home and by KEYSLOT_HOME, relative ones too, and refuses what is none', async () => {
    const cwd = dirname(home.path);
    const show = ['keys', 'show', 'k', '--json'];
    for (const named of [home.path, basename(home.path)]) {
      const environment = { KEYSLOT_HOME: named };
      expect((await command(show, { home: false, cwd, environment })).json.publicKey).toBe(address);
      expect((await command([...show, '--home', named], { home: false, cwd })).json.publicKey).toBe(address);
    }
    const elsewhere = { KEYSLOT_HOME: '/nowhere' };
    expect((await command(show, { environment: elsewhere })).json.publicKey).toBe(address);
    expect(await refusedWith(['keys', 'list'], { home: false, environment: elsewhere })).toBe('HOME_INVALID');
  });

  it('works through symlinks and from another folder', async () => {
    const folder = dirname(home.path);
    mkdirSync(join(folder, 'links'));
    symlinkSync(keyslot, join(folder, 'links', 'absolute'));
    symlinkSync('absolute', join(folder, 'links', 'relative'));
    for (const program of ['absolute', 'relative'].map(name => join(folder, 'links', name))) {
      expect(await command(['slots', 'list'], { program, cwd: '/' })).toMatchObject({ status: 0 });
    }
  });

  it('says so when no appliance answers', async () => {
    const other = await prepareHome({ token: false });
    const ran = await run(keyslot, ['slots', 'list', '--home', other.path]);
    expect(ran.status).toBe(1);
    expect(ran.stderr).toMatch(/^keyslot: APPLIANCE_UNREACHABLE: /);
    other.remove();
  });
});

describe('secrets', () => {
  it('are in nothing that was printed or logged, in no argument and in no environment', async () => {
    const { status } = await appliance.stop();
    expect(status).toBe(0);
    appliance = await serve(home);
    const shown = [appliance.pid, ...childrenOf(appliance.pid)].map(
      pid => readFileSync(`/proc/${pid}/cmdline`, 'latin1') + readFileSync(`/proc/${pid}/environ`, 'latin1'),
    );
    expect(shown).toHaveLength(3);
    const everything = [printed, readFileSync(home.log, 'utf8'), ...shown].join('\n');
    expect(everything.length).toBeGreaterThan(10_000);
    const secretKey = Buffer.concat([seed.seed, Buffer.from(decoded(seed.address))]);
    const canaries = [
      ...(['user.pin', 'so.pin', 'developer.token'] as const).map(home.secret),
      'not-the-pin',
      seed.seed.toString('hex'),
      base64(seed.seed),
      encodeBase58(seed.seed),
      encodeBase58(secretKey),
      [...seed.seed.subarray(0, 8)].join(','),
      [...seed.seed.subarray(0, 8)].join(', '),
    ];
    for (const canary of canaries) {
      expect(canary.length).toBeGreaterThan(8);
      expect(everything.includes(canary)).toBe(false);
    }
  });
});
