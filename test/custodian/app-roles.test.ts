import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { isKeyslotError } from '../../src/foundation/errors.ts';
import type { Credential } from '../../src/wire/custodian.ts';
import { Device } from './device.ts';
import { Lab, refusal, robot, sha256, text } from './lab.ts';

const lease_ms = 3_600_000;

let device: Device;
let lab: Lab;

beforeEach(async () => {
  device = await Device.make();
  lab = await Lab.open({ slot: device.slot });
  await lab.ask('operator', 'generate-key', { key: 'wallet', slot: 'main' });
});

afterEach(async () => {
  await lab[Symbol.asyncDispose]();
  await device[Symbol.asyncDispose]();
});

async function login(secretId: string = robot.secretId, roleId: string = robot.roleId): Promise<string> {
  const { output, bytes } = await lab.ask('nobody', 'login', { roleId }, { bytes: [text(secretId)] });
  expect(output).toEqual({ identity: 'robot', lease_s: lease_ms / 1000 });
  return Buffer.from(bytes?.[0] ?? []).toString('latin1');
}

/** `none`, or the code with what Retry-After would say. */
async function attempt(secretId: string, roleId: string = robot.roleId): Promise<string> {
  try {
    await login(secretId, roleId);
    return 'none';
  } catch (thrown) {
    if (!isKeyslotError(thrown)) throw thrown;
    return thrown.retryAfter_s === undefined ? thrown.code : `${thrown.code} ${thrown.retryAfter_s}`;
  }
}

/** What the holder of a token is answered when it signs. */
const use = (token: string, as: (digest: string) => Credential = digest => ({ token: digest })) =>
  refusal(
    lab.custodian.call(
      'sign-bytes',
      { input: { key: 'wallet' }, bytes: [text('hello')] },
      { requestId: 'lab', credential: as(sha256(token)) },
    ),
  );

describe('a login', () => {
  it('gives out a token that is a credential of this identity, with its roles and no others', async () => {
    const token = await login();
    expect(token).toMatch(/^[A-Za-z0-9_-]{43}$/);
    expect(await use(token)).toBe('none');
    const call = { requestId: 'lab', credential: { token: sha256(token) } };
    expect(await refusal(lab.custodian.call('lock-slot', { input: { slot: 'main' } }, call))).toBe(
      'PERMISSION_DENIED',
    );
  });

  it('gives out another token every time, and the earlier ones stay good', async () => {
    const tokens = [await login(), await login(), await login()];
    expect(new Set(tokens).size).toBe(3);
    for (const token of tokens) expect(await use(token)).toBe('none');
  });

  it('is needed: role id and secret id are no credentials themselves', async () => {
    for (const guess of [robot.roleId, robot.secretId, '']) {
      expect(await use(guess)).toBe('CREDENTIAL_UNKNOWN');
    }
  });

  it('wipes the secret id that it was handed', async () => {
    const handed = text(robot.secretId);
    await lab.ask('nobody', 'login', { roleId: robot.roleId }, { bytes: [handed] });
    expect(handed.every(byte => byte === 0)).toBe(true);
  });
});

describe('a token', () => {
  it('ends with its lease, which using it does not lengthen', async () => {
    const token = await login();
    lab.clock.advance(lease_ms - 1);
    expect(await use(token)).toBe('none');
    lab.clock.advance(1);
    expect(await use(token)).toBe('CREDENTIAL_UNKNOWN');
    expect(await use(await login())).toBe('none');
  });

  it('ends with the custodian', async () => {
    const token = await login();
    await lab.restart();
    await lab.custodian.openUnattended();
    expect(await use(token)).toBe('CREDENTIAL_UNKNOWN');
  });

  it('never passes for a certificate', async () => {
    const token = await login();
    expect(await use(token, digest => ({ certificate: digest }))).toBe('CREDENTIAL_UNKNOWN');
  });

  it('is pushed out by the thousandth after it, and by no fewer', async () => {
    const first = await login();
    const second = await login();
    for (let at = 0; at < 998; at += 1) await login();
    expect(await use(first)).toBe('none');
    const last = await login();
    expect(await use(first)).toBe('CREDENTIAL_UNKNOWN');
    for (const token of [second, last]) expect(await use(token)).toBe('none');
  });
});

describe('a wrong login', () => {
  it('says nothing of which half is wrong, and waits a second, whatever the next one is', async () => {
    const wrong = [
      ['wrong', robot.roleId],
      [robot.secretId, 'no-such-role'],
      ['', 'another-role'],
      ['wrong', '__proto__'],
    ] as const;
    for (const [secretId, roleId] of wrong) {
      expect(await attempt(secretId, roleId)).toBe('CREDENTIAL_UNKNOWN');
      expect(await attempt(robot.secretId, roleId)).toBe('PIN_RATE_LIMITED 1');
    }
    lab.clock.advance(1_000);
    expect(await attempt(robot.secretId)).toBe('none');
  });

  it('locks the role out for five minutes after five, exists it or not, and its tokens stay good', async () => {
    const token = await login();
    for (const roleId of [robot.roleId, 'no-such-role']) {
      for (let at = 0; at < 5; at += 1) {
        expect(await attempt('wrong', roleId)).toBe('CREDENTIAL_UNKNOWN');
        lab.clock.advance(1_000);
      }
      expect(await attempt(robot.secretId, roleId)).toBe('IDENTITY_LOCKED_OUT 299');
    }
    expect(await use(token)).toBe('none');
    lab.clock.advance(300_000);
    expect(await attempt(robot.secretId)).toBe('none');
  });

  it('learns nothing faster by trying many at once', async () => {
    const answers = await Promise.all(Array.from({ length: 50 }, (_, at) => attempt(`guess ${at}`)));
    expect(answers.toSorted()).toEqual(['CREDENTIAL_UNKNOWN', ...Array(49).fill('PIN_RATE_LIMITED 1')]);
  });

  it('with two thousand role ids that do not exist slows nobody who has one', async () => {
    for (let at = 0; at < 2_000; at += 1) {
      expect(await attempt('wrong', `role-${at}`)).toBe('CREDENTIAL_UNKNOWN');
    }
    expect(await attempt(robot.secretId)).toBe('none');
  });
});
