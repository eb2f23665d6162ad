import { existsSync, mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Command } from 'commander';
import { afterAll, afterEach, beforeAll, describe, expect, it, vi } from 'vitest';
import { stringify } from 'yaml';
import { addApprovals } from '../../src/cli/commands/approvals.ts';
import { addFreeze } from '../../src/cli/commands/freeze.ts';
import { addKeys } from '../../src/cli/commands/keys.ts';
import { addPolicy } from '../../src/cli/commands/policy.ts';
import { addSign } from '../../src/cli/commands/sign.ts';
import { decodeBase58, encodeBase58 } from '../../src/foundation/base58.ts';
import { isKeyslotError } from '../../src/foundation/errors.ts';
import { everythingAllowed } from '../../src/policy/permissive.ts';
import { House } from '../gateway/house.ts';
import { address, transfer, wireOf } from '../policy/lab.ts';

/** The commands of policies, freezes, approvals and keys, in this process, against a gateway over HTTPS. */

let house: House;
let homes: Record<'alice' | 'bob', string>;
let publicKey: Uint8Array;
const folder = mkdtempSync(join(tmpdir(), 'keyslot-cli-'));

beforeAll(async () => {
  house = await House.open(
    { alice: ['admin', 'operator', 'signer', 'auditor'], bob: ['approver'] },
    {
      policies: { documents: [everythingAllowed('base', { keys: ['hot'] })] },
      approvals: new Map([['export-key', 1]]),
      exports: true,
    },
  );
  homes = { alice: house.homeOf('alice'), bob: house.homeOf('bob') };
  const { publicKey: key } = await keyslot('alice', [
    'keys',
    'generate',
    'hot',
    '--slot',
    'main',
    '--tag',
    'hot',
  ]);
  publicKey = decodeBase58(String(key)) ?? new Uint8Array();
});

afterAll(async () => {
  await house[Symbol.asyncDispose]();
  rmSync(folder, { recursive: true, force: true });
});

afterEach(() => {
  vi.restoreAllMocks();
  process.exitCode = undefined;
});

/** What a command prints as text. */
async function printed(who: 'alice' | 'bob', args: readonly string[]): Promise<string> {
  const lines: string[] = [];
  const log = vi.spyOn(console, 'log').mockImplementation(line => void lines.push(String(line)));
  const program = new Command('keyslot').exitOverride();
  const shared = (command: Command) =>
    command.option('--home <dir>', '', homes[who]).option('--json').exitOverride();
  for (const add of [addPolicy, addFreeze, addApprovals, addKeys, addSign]) add(program, shared);
  try {
    await program.parseAsync(args, { from: 'user' });
  } finally {
    log.mockRestore();
  }
  return lines.join('\n');
}

const keyslot = async (who: 'alice' | 'bob', args: readonly string[]) =>
  JSON.parse(await printed(who, [...args, '--json'])) as Record<string, unknown>;

async function refusal(work: Promise<unknown>): Promise<unknown> {
  try {
    return await work;
  } catch (thrown) {
    if (isKeyslotError(thrown)) return thrown.code;
    return (thrown as { code?: string }).code ?? thrown;
  }
}

function file(name: string, document: unknown): string {
  const path = join(folder, name);
  writeFileSync(path, typeof document === 'string' ? document : stringify(document));
  return path;
}

const wire = (to = 'alice') =>
  Buffer.from(wireOf([transfer(address(to), 5n, publicKey)], { payer: publicKey })).toString('base64');

const toAlice = (appliesTo: object) => ({
  name: 'to-alice',
  appliesTo,
  transactions: { programs: [{ program: 'system' }], destinations: [encodeBase58(address('alice'))] },
  messages: { offchain: true },
});

describe('keyslot policy', () => {
  it('checks a document offline, and says whether it lets everything through', async () => {
    const quiet = file('quiet.yaml', toAlice({ tags: ['hot'] }));
    expect(await keyslot('alice', ['policy', 'check', quiet])).toMatchObject({
      permissive: false,
      valid: true,
    });
    const open = file('open.yaml', everythingAllowed('open', 'all'));
    expect(await printed('alice', ['policy', 'check', open])).toContain('permissive');
    const wrong = file('wrong.yaml', { ...toAlice({ tags: ['hot'] }), more: 1 });
    expect(await refusal(printed('alice', ['policy', 'check', wrong]))).toBe('POLICY_INVALID');
    expect(await refusal(printed('alice', ['policy', 'check', join(folder, 'none')]))).toBe('POLICY_INVALID');
  });

  it('puts, shows, lists and deletes', async () => {
    const path = file('put.yaml', toAlice({ keys: ['cold'] }));
    const put = ['policy', 'put', path, '--expected', '0'];
    expect(await keyslot('alice', put)).toMatchObject({ name: 'to-alice', version: 1 });
    expect(await refusal(keyslot('alice', put))).toBe('POLICY_CHANGED');
    expect(await keyslot('alice', ['policy', 'show', 'to-alice', '--version', '1'])).toMatchObject({
      version: 1,
    });
    expect(await printed('alice', ['policy', 'list'])).toMatch(/base +1 +configuration +PERMISSIVE/);
    expect(await printed('alice', ['policy', 'delete', 'to-alice'])).toContain('to-alice');
  });

  it('explains every rule, for the key’s own policies and for a candidate', async () => {
    const explain = ['policy', 'explain', '--key', 'hot', '--transaction'];
    expect(await keyslot('alice', [...explain, wire()])).toMatchObject({ allowed: true });
    expect(process.exitCode).toBeUndefined();
    const candidate = ['--policy', file('candidate.yaml', toAlice({ tags: ['hot'] }))];
    const inFile = file('transfer.txt', `${wire('mallory')}\n`);
    const text = await printed('alice', [...explain, inFile, ...candidate]);
    expect(text).toMatch(/to-alice\/destinations +deny/);
    expect(text).toContain('"name": "system.transfer"');
    expect(text.endsWith('REFUSED')).toBe(true);
    expect(process.exitCode).toBe(1);
    expect(await refusal(printed('alice', ['policy', 'explain', '--key', 'hot']))).toBe('commander.error');
  });

  it('replays what was signed and refused, and lists what a candidate would change', async () => {
    const signed = ['sign', 'hot', '--transaction'];
    await keyslot('alice', [...signed, wire()]);
    await keyslot('alice', [...signed, wire('mallory')]);
    await keyslot('alice', ['sign', 'hot', '--message', 'hello']);
    const candidate = file('replayed.yaml', toAlice({ tags: ['hot'] }));
    const replay = ['policy', 'replay', '--policy', candidate, '--since', '2025-12-31T00:00:00Z'];
    expect(await keyslot('alice', replay)).toMatchObject({
      judged: 3,
      unreadable: 0,
      changes: [
        { was: 'allow', now: 'deny', violations: [{ rule: 'to-alice/destinations' }] },
        { was: 'allow', now: 'deny', violations: [{ rule: 'to-alice/messages' }] },
      ],
    });
    expect(await printed('alice', replay)).toContain('3 judged, 2 would change, 0 not in the log in full.');
    const prefixed = { ...toAlice('all' as unknown as object), messages: { bytes: { prefixes: ['h'] } } };
    const looking = ['policy', 'replay', '--policy', file('prefix.yaml', prefixed)];
    expect(await keyslot('alice', [...looking, '--since', '2025-12-31T00:00:00Z'])).toMatchObject({
      judged: 2,
      unreadable: 1,
    });
    expect(await keyslot('alice', [...looking, '--since', '2126-01-01T00:00:00Z'])).toMatchObject({
      judged: 0,
    });
    expect(await refusal(keyslot('alice', [...looking, '--since', 'then']))).toBe('commander.error');
    expect(await refusal(keyslot('bob', [...looking, '--since', '7d']))).toBe('PERMISSION_DENIED');
  });
});

describe('keyslot sign', () => {
  it('prints the receipt', async () => {
    const text = await printed('alice', ['sign', 'hot', '--message', 'a receipt']);
    expect(text).toMatch(/receipt +lab \d+ [0-9a-f]{64}/);
    expect(text).toMatch(/proof +\/v1\/audit\/\d+\/proof/);
  });
});

describe('keyslot freeze', () => {
  it('stops a key until it is thawed', async () => {
    expect(await printed('alice', ['freeze', 'list'])).toBe('Nothing is frozen.');
    const freeze = ['freeze', 'key', 'hot', '--reason', 'a test'];
    expect(await keyslot('bob', freeze)).toMatchObject({ id: 'key/hot', by: 'bob' });
    expect(await refusal(printed('alice', ['sign', 'hot', '--message', 'x']))).toBe('FROZEN');
    expect(await printed('alice', ['freeze', 'list'])).toMatch(/key\/hot .* bob +a test/);
    const thaw = ['thaw', 'key/hot', '--reason', 'over'];
    expect(await refusal(printed('bob', thaw))).toBe('PERMISSION_DENIED');
    expect(await printed('alice', thaw)).toBe('thawed: key/hot');
    expect(await keyslot('alice', ['freeze', 'appliance', '--reason', 'x'])).toMatchObject({
      id: 'appliance',
    });
    expect(await keyslot('alice', ['thaw', 'appliance', '--reason', 'x'])).toMatchObject({ id: 'appliance' });
    expect(await keyslot('alice', ['freeze', 'slot', 'main', '--reason', 'x'])).toMatchObject({
      id: 'slot/main',
    });
    expect(await keyslot('alice', ['thaw', 'slot/main', '--reason', 'x'])).toMatchObject({ id: 'slot/main' });
  });
});

describe('keyslot approvals', () => {
  it('a key is exported into a new file, once somebody else has said yes to exactly that', async () => {
    const request = ['approvals', 'request', 'export-key', '--input', '{"key":"hot"}', '--reason', 'a test'];
    const id = String((await keyslot('alice', request)).id);
    const output = join(folder, 'hot.json');
    const exported = ['keys', 'export', 'hot', '--output', output, '--approval', id];
    expect(await refusal(printed('alice', exported))).toBe('APPROVAL_UNUSABLE');
    expect(existsSync(output)).toBe(false);
    expect(await refusal(printed('bob', ['approvals', 'approve', id]))).toBe('commander.error');
    expect(await printed('bob', ['approvals', 'show', id])).toContain('"key": "hot"');
    expect(await keyslot('bob', ['approvals', 'approve', id, '--yes'])).toMatchObject({ state: 'approved' });
    expect(await printed('alice', ['approvals', 'list'])).toMatch(/approved +1\/1 +alice +export-key/);
    expect(await printed('alice', exported)).toContain(output);
    const numbers = JSON.parse(readFileSync(output, 'utf8')) as number[];
    expect(Uint8Array.from(numbers.slice(32))).toEqual(Uint8Array.from(publicKey));
    expect(statSync(output).mode & 0o777).toBe(0o600);
    expect(await refusal(printed('alice', exported))).toBe('KEY_FILE_UNWRITABLE');
    const unparsed = ['approvals', 'request', 'export-key', '--input', '{', '--reason', 'x'];
    expect(await refusal(printed('alice', unparsed))).toBe('BODY_NOT_JSON');
  });

  it('one that is rejected lets nothing happen', async () => {
    const request = ['approvals', 'request', 'export-key', '--input', '{"key":"hot"}', '--reason', 'a test'];
    const id = String((await keyslot('alice', request)).id);
    expect(await keyslot('bob', ['approvals', 'reject', id, '--yes'])).toMatchObject({ state: 'rejected' });
    const output = join(folder, 'rejected.json');
    const exported = ['keys', 'export', 'hot', '--output', output, '--approval', id];
    expect(await refusal(printed('alice', exported))).toBe('APPROVAL_UNUSABLE');
  });
});

describe('keyslot keys', () => {
  it('tags, disables and enables', async () => {
    expect(await keyslot('alice', ['keys', 'tag', 'hot', 'a', 'b'])).toMatchObject({ tags: ['a', 'b'] });
    expect(await printed('alice', ['keys', 'tag', 'hot'])).toMatch(/tags +-/);
    expect(await keyslot('alice', ['keys', 'disable', 'hot'])).toMatchObject({ state: 'disabled' });
    expect(await refusal(printed('alice', ['sign', 'hot', '--message', 'x']))).toBe('KEY_DISABLED');
    expect(await keyslot('alice', ['keys', 'enable', 'hot'])).toMatchObject({ state: 'active' });
  });
});
