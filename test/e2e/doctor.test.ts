import { spawn } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, afterEach, describe, expect, it } from 'vitest';
import { parse } from 'yaml';
import { checkedConfig } from '../../src/appliance/config.ts';
import { slotSnippet } from '../../src/appliance/slot-snippet.ts';
import { tryToken } from '../../src/appliance/tokens.ts';
import { CKF_RW_SESSION, CKF_SERIAL_SESSION, CKU_USER } from '../../src/engines/pkcs11/constants.ts';
import { template } from '../../src/engines/pkcs11/cryptoki.ts';
import { examineToken, type TokenExamination } from '../../src/engines/pkcs11/index.ts';
import { Pkcs11Module } from '../../src/engines/pkcs11/module.ts';
import { CloudHsmServer } from '../aws/cloudhsm-server.ts';
import { Faulty } from '../engines/pkcs11/faulty/faulty.ts';
import { softToken } from '../engines/pkcs11/soft-token.ts';
import { eventually, keyslot, run } from './appliance.ts';

/** `keyslot doctor --module` and `--cloudhsm-cluster`, as processes, on a token that misbehaves on demand. */
const token = softToken({ label: 'sick' });
const faulty = await Faulty.make({ inner: token.module });
const folder = mkdtempSync(join(tmpdir(), 'keyslot-doctor-'));
const pinFile = join(folder, 'user.pin');
writeFileSync(pinFile, `${token.pinText}\n`, { mode: 0o600 });
afterEach(() => faulty.heal());
afterAll(() => {
  faulty[Symbol.dispose]();
  token.remove();
  rmSync(folder, { recursive: true, force: true });
});

const environment = { ...faulty.environment, SOFTHSM2_CONF: token.configuration };
const variables = Object.entries(environment).flatMap(([name, value]) => ['--env', `${name}=${value}`]);
const named = ['doctor', '--module', faulty.modulePath, ...variables];
const tried = [...named, '--token', 'sick', '--pin-file', pinFile];

interface Report {
  readonly tokens: readonly {
    readonly verdict: string;
    readonly tried: boolean;
    readonly reasons: readonly string[];
    readonly snippet?: string;
    readonly examination?: TokenExamination;
    readonly problems: readonly { readonly code: string; readonly detail: string }[];
  }[];
  readonly problems: readonly { readonly code: string }[];
}

async function report(args: readonly string[]) {
  const { status, stdout, stderr } = await run(keyslot, [...args, '--json']);
  expect(stderr).toBe(''); // and so no progress either, which is for terminals
  expect(stdout).not.toContain(token.pinText);
  const { tokens, problems } = JSON.parse(stdout) as Report;
  return { status, problems, found: tokens[0] };
}

/** The configuration that a person would make of what was printed. */
const configOf = (snippet = '') =>
  checkedConfig({ ...restOfConfig, ...parse(snippet) }, '/home', 'the snippet');
const restOfConfig = {
  tls: { certificate: 'server.crt', key: 'server.key', clientCa: 'ca.crt' },
  identities: [{ name: 'someone', roles: ['signer'], certificate: { file: 'someone.crt' } }],
  audit: { unsigned: true },
};

function objects(): number {
  const module = Pkcs11Module.open(token.module);
  const view = module.tokens().find(({ label }) => label === 'sick');
  if (!view) throw new Error('The token has gone.');
  const session = module.cryptoki.openSession(view.slotHandle, CKF_SERIAL_SESSION | CKF_RW_SESSION);
  try {
    token.pin().useText(text => module.cryptoki.login(session, CKU_USER, text));
    return module.cryptoki.findObjects(session, template()).length;
  } finally {
    module.cryptoki.closeSession(session);
    module.close();
  }
}

describe('keyslot doctor --module', () => {
  it('judges by the lists alone without a PIN, of which the token then hears nothing', async () => {
    faulty.become(['yubihsm', 'no-eddsa']);
    const before = faulty.counts().calls.C_Login ?? 0;
    const { status, found } = await report(named);
    expect({ status, verdict: found?.verdict, tried: found?.tried, snippet: found?.snippet }).toEqual({
      status: 1,
      verdict: 'unusable',
      tried: false,
      snippet: undefined,
    });
    expect(found?.reasons).toHaveLength(3);
    expect(faulty.counts().calls.C_Login ?? 0).toBe(before);
  });

  it('tries the token with its PIN, says on a terminal what it does, and prints a slot for keyslot.yaml', async () => {
    const output = join(folder, 'report.json');
    const words = [keyslot, ...tried, '--json'].map(word => `'${word}'`).join(' ');
    const { stdout: terminal, status } = await run('script', ['-qec', `${words} > '${output}'`, '/dev/null']);
    expect(terminal).toContain('\rC_GenerateKeyPair');
    const [found] = (JSON.parse(readFileSync(output, 'utf8')) as Report).tokens;
    expect({ status, verdict: found?.verdict, problems: found?.problems }).toEqual({
      status: 0,
      verdict: 'native',
      problems: [],
    });
    expect(configOf(found?.snippet).slots[0]).toMatchObject({
      pin: { file: pinFile },
      settings: {
        module: faulty.modulePath,
        mode: 'native',
        tokenLabel: 'sick',
        sessions: found?.examination?.speed?.usefulSessions,
        environment,
      },
    });
  });

  it('prints what differs from the profile, for a token that can only seal', async () => {
    faulty.become(['cloudhsm', 'no-eddsa']);
    using pin = token.pin();
    const examination = await examineToken({ ...here(), pin });
    const snippet = slotSnippet({
      ...place(),
      environment,
      profile: 'generic',
      labelRepeated: true,
      verdict: examination.verdict,
      examination,
    });
    expect(configOf(snippet).slots[0]).toMatchObject({
      pin: { attended: true },
      settings: {
        tokenSerial: place().tokenSerial,
        mode: 'wrapped',
        gcmIv: 'device',
        sessionMode: 'read-write',
      },
    });
  });

  it('takes a crash of the module for a verdict, and finds and removes what that left behind', async () => {
    faulty.bend({ 'token-objects': true });
    const crash = faulty.inject({ on: 'C_Sign', effect: 'crash' });
    const { status, found } = await report(tried);
    crash.withdraw();
    expect({ status, verdict: found?.verdict }).toEqual({ status: 1, verdict: 'unusable' });
    expect(found?.problems).toMatchObject([
      { code: 'MODULE_UNUSABLE', detail: expect.stringMatching(/SIGSEGV.*C_Sign/s) },
    ]);
    expect(objects()).toBe(2);
    const next = await report(tried);
    expect(next.found?.problems.map(({ code }) => code)).toEqual(['KEY_EXISTS']);
    const { leftovers } = next.found?.examination ?? {};
    expect(leftovers).toHaveLength(1);
    using pin = token.pin();
    expect(await examineToken({ ...here(), pin, clean: true })).toMatchObject({
      leftovers,
      cleaned: leftovers,
    });
    expect(objects()).toBe(0);
  });

  it('takes a hang for one', async () => {
    using _fault = faulty.inject({ on: 'C_Sign', effect: 'hang' });
    using pin = token.pin();
    await expect(tryToken({ ...place(), pin, bound_ms: 1_500 }, environment)).rejects.toMatchObject({
      code: 'MODULE_UNUSABLE',
      message: expect.stringContaining('C_Sign'),
    });
  });

  it.each(['SIGINT', 'SIGKILL'] as const)('leaves nothing in the token when %s ends it', async signal => {
    faulty.bend({ 'token-objects': true });
    using _slow = faulty.inject({ on: 'C_Sign', effect: 'latency', ms: 30 });
    const signs = () => faulty.counts().calls.C_Sign ?? 0;
    const before = signs();
    const child = spawn(keyslot, tried, { stdio: ['ignore', 'ignore', 'pipe'] });
    let said = '';
    child.stderr.on('data', chunk => {
      said += String(chunk);
    });
    const exited = new Promise<number | null>(done => child.on('close', done));
    await eventually('a signature', () => signs() > before + 5);
    expect(objects()).toBeGreaterThan(0);
    child.kill(signal);
    await exited;
    if (signal === 'SIGINT') expect(said).toContain('REQUEST_ABORTED');
    await eventually('an empty token', () => objects() === 0);
  });
});

describe('keyslot doctor --cloudhsm-cluster', () => {
  it('prints the checks, and fails for what is wrong, not for what cannot be asked', async () => {
    await using aws = await CloudHsmServer.start();
    aws.clusters = [{ ClusterId: 'cluster-a', State: 'DEGRADED', Hsms: [] }];
    const asked = ['doctor', '--cloudhsm-cluster', 'cluster-a', '--endpoint', aws.endpoint];
    const failed = await run(keyslot, asked, { environment: aws.environment });
    expect({ status: failed.status, stderr: failed.stderr }).toEqual({ status: 1, stderr: '' });
    expect(failed.stdout).toMatch(/^cluster +fail +It is DEGRADED/m);
    expect(failed.stdout).toContain('to do (backup): ');
    aws.fault = { error: 'AccessDeniedException', status: 400 };
    const unasked = await run(keyslot, [...asked, '--json'], { environment: aws.environment });
    expect(unasked.status).toBe(0);
    expect(JSON.parse(unasked.stdout)).toMatchObject({
      cloudhsm: { outcome: 'unknown', cluster: 'cluster-a' },
    });
  });
});

/** For an examination in this process, which is cheaper and dies of a crash. */
const here = () => ({
  ...place(),
  sessions_max: 1,
  signal: new AbortController().signal,
  told: () => undefined,
});

function place() {
  const module = Pkcs11Module.open(token.module);
  try {
    const view = module.tokens().find(({ label }) => label === 'sick');
    return {
      module: faulty.modulePath,
      tokenLabel: 'sick',
      tokenSerial: view?.serial ?? '',
      clean: false,
    };
  } finally {
    module.close();
  }
}
