import { spawn } from 'node:child_process';
import { X509Certificate } from 'node:crypto';
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Command } from 'commander';
import { afterAll, afterEach, beforeAll, describe, expect, it, vi } from 'vitest';
import { isMap, isPair, isScalar, isSeq, parse, parseDocument, visit } from 'yaml';
import { checkedConfig, readConfig } from '../../src/appliance/config.ts';
import { findSoftHsm } from '../../src/appliance/development.ts';
import {
  devicePages,
  type FirstAppliance,
  type FirstSlot,
  firstConfigText,
  firstDevices,
  firstPolicyText,
} from '../../src/appliance/first-config.ts';
import { writeFirstHome } from '../../src/appliance/first-home.ts';
import { addInit } from '../../src/cli/commands/init.ts';
import { isKeyslotError } from '../../src/foundation/errors.ts';
import { Secret } from '../../src/foundation/secret.ts';
import { parsePolicy } from '../../src/policy/document.ts';
import { permissive } from '../../src/policy/permissive.ts';
import { keyslot } from '../e2e/appliance.ts';

const folder = mkdtempSync(join(tmpdir(), 'keyslot-init-'));
const module = findSoftHsm();
const root = join(import.meta.dirname, '..', '..');
/** With two SoftHSM tokens, which later stand for tokens of one's own. */
let tokens: Made;

beforeAll(async () => {
  tokens = await init(['--hsm', 'softhsm2', '--create-token', '--token', 'mine', '--no-keep-ca']);
});

afterAll(() => rmSync(folder, { recursive: true, force: true }));

afterEach(() => {
  vi.restoreAllMocks();
  process.exitCode = undefined;
});

let homes = 0;
const newHome = (): string => join(folder, `home-${++homes}`);

interface Made {
  readonly home: string;
  readonly files: readonly string[];
  readonly problems: readonly { readonly code: string }[];
  readonly warnings: readonly string[];
  readonly next: readonly string[];
}

/** `keyslot init` in this process, in a new folder, with `--json`. */
async function init(flags: readonly string[], home = newHome()): Promise<Made> {
  const lines: string[] = [];
  vi.spyOn(console, 'log').mockImplementation(line => void lines.push(String(line)));
  const program = new Command('keyslot').exitOverride().configureOutput({ writeErr: () => undefined });
  addInit(program, command => command.option('--home <dir>').option('--json').exitOverride());
  await program.parseAsync(['init', '--home', home, '--json', ...flags], { from: 'user' });
  return JSON.parse(lines.join('\n')) as Made;
}

async function refusal(flags: readonly string[], home = newHome()): Promise<string> {
  try {
    await init(flags, home);
  } catch (thrown) {
    expect(existsSync(join(home, 'keyslot.yaml'))).toBe(false);
    return isKeyslotError(thrown) ? thrown.code : ((thrown as { code?: string }).code ?? '');
  }
  return 'written';
}

const ownToken = (): string[] => {
  const conf = join(tokens.home, 'softhsm', 'softhsm2.conf');
  return ['--module', module, '--env', `SOFTHSM2_CONF=${conf}`];
};

const pkcs11: FirstSlot = {
  engine: 'pkcs11',
  pin: { file: 'secrets/main.pin' },
  settings: {
    module,
    profile: 'softhsm2',
    tokenLabel: 'one',
    mode: 'native',
    environment: { SOFTHSM2_CONF: '/conf' },
  },
};
const slots: Readonly<Record<FirstAppliance['device'], FirstSlot>> = {
  softhsm2: pkcs11,
  'aws-cloudhsm': pkcs11,
  yubihsm2: { ...pkcs11, pin: { attended: true } },
  generic: { ...pkcs11, settings: { module, profile: 'generic', tokenSerial: '42', mode: 'wrapped' } },
  kms: {
    engine: 'kms',
    pin: 'none',
    settings: { mode: 'aws-envelope', keyId: 'alias/one', region: 'eu-central-1' },
  },
  files: { engine: 'encrypted-file', pin: { credential: 'secret' }, settings: {} },
};
const shape = (device: FirstAppliance['device'], audited: boolean): FirstAppliance => {
  const slot = slots[device];
  const other = {
    ...slot,
    settings: { ...slot.settings, ...('tokenLabel' in slot.settings ? { tokenLabel: 'two' } : {}) },
  };
  const apart =
    device === 'generic' ? { ...other, settings: { ...other.settings, tokenSerial: '43' } } : other;
  return {
    profile: 'production',
    host: '127.0.0.1',
    port: 8443,
    opsPort: 9443,
    device,
    slot,
    ...(audited ? { auditSlot: apart } : {}),
    operator: 'operator',
    client: 'client',
  };
};
const shapes = firstDevices.flatMap(device => [shape(device, true), shape(device, false)]);

describe('the first keyslot.yaml', () => {
  it.each(shapes)('is taken by production: $device', first => {
    const config = checkedConfig(parse(firstConfigText(first)), '/home', 'keyslot.yaml');
    expect(config.profile).toBe('production');
    expect(config.audit.slot).toBe(first.auditSlot && 'audit');
  });

  it.each(shapes)('explains each setting where it stands first, and links the page of $device', first => {
    const text = firstConfigText(first);
    expect(text).toContain(devicePages[first.device]);
    expect(text).not.toMatch(/[&*]a\d/); // no value by reference: whoever edits one slot edits that one
    expect(existsSync(join(root, devicePages[first.device]))).toBe(true);
    for (const [page] of text.matchAll(/docs\/[\w./-]*\w/g))
      expect(existsSync(join(root, page)), page).toBe(true);
    const explained = new Set<string>();
    const silent: string[] = [];
    visit(parseDocument(text), {
      Pair: (_key, pair, ancestors) => {
        const inOneLine = ancestors.some(each => (isMap(each) || isSeq(each)) && each.flow);
        const path = [...ancestors.filter(isPair).map(each => String(each.key)), String(pair.key)].join('.');
        const above = isScalar(pair.key) ? pair.key.commentBefore : undefined;
        const holder = ancestors.at(-1);
        const first = isMap(holder) && holder.items[0] === pair;
        // The parser gives what stands above the first item of a list or a map to that list or map.
        const said =
          above ??
          (first ? ancestors.findLast(each => isMap(each) || isSeq(each))?.commentBefore : undefined);
        if (said !== undefined || (first && text.includes(`- ${pair.key}:`))) explained.add(path);
        else if (!inOneLine && !explained.has(path)) silent.push(path);
      },
    });
    expect(silent).toEqual([]);
  });

  it('gives the operator no signature, and the client nothing but signatures of the slot of wallets', () => {
    const config = checkedConfig(parse(firstConfigText(shape('softhsm2', true))), '/home', 'keyslot.yaml');
    const [operator, client, ...others] = config.identities;
    expect(others).toEqual([]);
    expect(operator?.roles).toEqual(['operator']);
    const granted = operator?.grants.flatMap(({ operations }) => operations);
    expect(granted).toEqual(['manage', 'generate', 'import']);
    expect(client).toMatchObject({
      roles: ['signer'],
      grants: [{ slots: ['main'], operations: ['sign-message', 'sign-transaction'] }],
    });
    expect([operator?.slots, client?.slots]).toEqual([undefined, undefined]);
  });
});

describe('the first policy', () => {
  it('lets the client say hello and nothing else, and is not permissive', () => {
    const policy = parsePolicy(parse(firstPolicyText({ client: '1@home' })));
    expect(policy).toMatchObject({ identities: ['1@home'], appliesTo: { slots: ['main'] } });
    expect(policy.transactions).toBeUndefined();
    expect(policy.messages).toMatchObject({
      offchain: false,
      raw: false,
      bytes: { prefixes: ['Hello from '] },
    });
    expect(permissive(policy)).toBe(false);
  });

  it('holds a policy for capped transfers, which is one when its comment signs are taken away', () => {
    const text = firstPolicyText({ client: 'client' }).replace(/^# (transactions:| {2,})/gm, '$1');
    const policy = parsePolicy(parse(text));
    expect(policy.transactions?.caps.windows).toHaveLength(1);
    expect(permissive(policy)).toBe(false);
  });
});

describe('keyslot init', () => {
  it('writes a whole state folder for files, which nobody but its owner reads', async () => {
    const { home, files, problems, next } = await init([
      '--hsm',
      'files',
      '--host',
      '10.1.2.3',
      '--port',
      '9000',
    ]);
    expect(problems).toEqual([]);
    const config = readConfig(home);
    expect(config).toMatchObject({
      profile: 'production',
      listen: { host: '10.1.2.3', port: 9000 },
      ops: { port: 10_000 },
    });
    expect(config.audit.slot).toBe('audit');
    const modes = Object.fromEntries(files.map(file => [file, statSync(join(home, file)).mode & 0o777]));
    const open = Object.keys(modes).filter(file => modes[file] !== 0o600);
    expect(open.sort()).toEqual(['tls/ca.crt', 'tls/client.crt', 'tls/operator.crt', 'tls/server.crt']);
    const pins = ['main', 'audit'].map(slot =>
      readFileSync(join(home, 'secrets', `${slot}.pin`), 'utf8').trim(),
    );
    expect(new Set(pins).size).toBe(2);
    for (const pin of pins) expect(pin).toMatch(/^[0-9a-f]{24}$/);
    const certificate = (name: string) => new X509Certificate(readFileSync(join(home, 'tls', `${name}.crt`)));
    expect(certificate('server').checkIP('10.1.2.3')).toBe('10.1.2.3');
    for (const name of ['server', 'operator', 'client']) {
      expect(certificate(name).verify(certificate('ca').publicKey)).toBe(true);
    }
    expect(next.map(line => line.split(' ').slice(1, 3).join(' '))).toEqual([
      'serve --home',
      'keys generate',
      'sign first',
      'status --home',
    ]);
  });

  it('keeps what is there and names it, and then writes nothing', async () => {
    const home = newHome();
    mkdirSync(join(home, 'tls'), { recursive: true });
    writeFileSync(join(home, 'tls', 'server.key'), 'mine');
    expect(await refusal(['--hsm', 'files'], home)).toBe('HOME_INVALID');
    expect(readdirSync(home, { recursive: true })).toEqual(['tls', join('tls', 'server.key')]);
    expect(readFileSync(join(home, 'tls', 'server.key'), 'utf8')).toBe('mine');
    const { home: whole } = await init(['--hsm', 'files']);
    const before = readFileSync(join(whole, 'keyslot.yaml'), 'utf8');
    await expect(init(['--hsm', 'kms'], whole)).rejects.toMatchObject({ code: 'HOME_INVALID' });
    expect(readFileSync(join(whole, 'keyslot.yaml'), 'utf8')).toBe(before);
  });

  it('takes away what it wrote when it cannot go on', async () => {
    const home = newHome();
    using pin = Secret.fromText('one-pin');
    const pins = { 'secrets/main.pin': pin, 'nowhere/audit.pin': pin };
    const made = writeFirstHome({ home, appliance: shape('files', true), pins, keepCa: true });
    await expect(made).rejects.toMatchObject({ code: 'HOME_INVALID' });
    expect(readdirSync(home)).toEqual([]);
  });

  it('makes SoftHSM tokens of its own, one for wallets and one for the audit key', async () => {
    const { home, problems } = tokens;
    expect(problems).toEqual([]); // keyslot doctor found both tokens, and their PINs set
    const labels = readConfig(home).slots.map(slot => slot.engine === 'pkcs11' && slot.settings.tokenLabel);
    expect(labels).toEqual(['mine', 'mine-audit']);
    expect(existsSync(join(home, 'secrets', 'ca.key'))).toBe(false);
  });

  it('says what is missing before it writes, and spends no PIN on a device that takes another form', async () => {
    const pinFile = join(tokens.home, 'secrets', 'main.pin');
    const mine = [...ownToken(), '--token', 'mine'];
    expect(await refusal(['--hsm', 'aws-cloudhsm', ...mine, '--pin-file', pinFile])).toBe('PIN_REFUSED');
    expect(await refusal(['--hsm', 'softhsm2', ...mine])).toBe('SECRET_UNREADABLE');
  });

  it('refuses what cannot be meant', async () => {
    expect(await refusal(['--hsm', 'files', '--attended', '--pin-file', 'user.pin'])).toBe(
      'commander.conflictingOption',
    );
    expect(await refusal(['--hsm', 'files', '--client', 'server'])).toBe('commander.invalidArgument');
    expect(await refusal(['--hsm', 'files', '--client', 'same', '--operator', 'same'])).toBe(
      'commander.error',
    );
    expect(await refusal(['--hsm', 'something'])).toBe('commander.invalidArgument');
  });

  it('asks on a terminal for what no flag says, with defaults, and shows no PIN', async () => {
    const home = newHome();
    const command = `'${keyslot}' init --home '${home}' --hsm files --operator oncall`;
    const child = spawn('script', ['-qec', command, '/dev/null'], { stdio: ['pipe', 'pipe', 'inherit'] });
    const answers = [
      ['PIN of slot main', 'file\r'],
      ['it is not shown', 'typed-and-not-shown\r'],
      ['Listen on', '\r'],
      ['Port', '9999\r'],
      ['Profile', 'development\r'],
    ];
    let shown = '';
    child.stdout.on('data', chunk => {
      shown += String(chunk);
      const [question = '', answer] = answers[0] ?? [];
      if (answer === undefined || !shown.includes(question)) return;
      answers.shift();
      child.stdin.write(answer);
    });
    const status = await new Promise(done => child.on('close', done));
    expect({ status, answers, shown }).toMatchObject({ status: 0, answers: [] });
    expect(shown).not.toContain('typed-and-not-shown');
    expect(readFileSync(join(home, 'secrets', 'main.pin'), 'utf8')).toBe('typed-and-not-shown\n');
    expect(readConfig(home)).toMatchObject({ profile: 'development', listen: { port: 9999 } });
  });
});
