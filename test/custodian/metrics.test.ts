import { afterEach, describe, expect, it } from 'vitest';
import type { SessionFigures } from '../../src/custody/engine.ts';
import { slotId } from '../../src/custody/ids.ts';
import { SessionPool } from '../../src/engines/pkcs11/pool.ts';
import { ordinaryPatience, Recovery } from '../../src/engines/pkcs11/recovery.ts';
import type { Clock } from '../../src/foundation/clock.ts';
import { KeyslotError } from '../../src/foundation/errors.ts';
import { silentLog } from '../../src/foundation/log.ts';
import type { Secret } from '../../src/foundation/secret.ts';
import { Histogram } from '../../src/wire/meters.ts';
import { type Labels, type MetricName, type Series, series as seriesShape } from '../../src/wire/metrics.ts';
import { plain, wireBytes } from '../solana/compiled.ts';
import { Device, pinText } from './device.ts';
import { Lab, type LabSettings, refusal, text } from './lab.ts';

/** What the custodian counts, as it travels to whoever writes it out. */

let opened = new AsyncDisposableStack();

afterEach(async () => {
  await opened.disposeAsync();
  opened = new AsyncDisposableStack();
});

async function openLab(settings: LabSettings = {}): Promise<{ lab: Lab; device: Device }> {
  const device = opened.use(await Device.make());
  const lab = opened.use(await Lab.with(settings, { slot: device.slot, source: () => pinText }));
  const [failure] = await lab.custodian.openUnattended();
  if (failure) throw failure;
  await lab.ask('operator', 'generate-key', { key: 'wallet', slot: 'main' });
  return { lab, device };
}

const read = async (lab: Lab): Promise<readonly Series[]> =>
  (await lab.ask('nobody', 'metrics', {})).output.series;

/** The value, or of a histogram the number of observations, of the one series with these labels. */
function of(all: readonly Series[], name: MetricName, labels: Labels = {}): number | undefined {
  const found = all.filter(
    each => each.name === name && Object.entries(labels).every(([label, is]) => each.labels[label] === is),
  );
  expect(found.length).toBeLessThan(2);
  const [only] = found;
  return only?.buckets ? only.buckets.reduce((sum, each) => sum + each, 0) : only?.value;
}

const sign = (lab: Lab, key = 'wallet', rest = {}) =>
  lab.ask('signer', 'sign-message', { key }, { bytes: [text('a message')], ...rest });

describe('the numbers of the custodian', () => {
  it('have the shape in which they travel, and no series comes twice', async () => {
    const { lab } = await openLab();
    await sign(lab);
    const all = await read(lab);
    for (const each of all) expect(seriesShape.safeParse(each).success, each.name).toBe(true);
    const ids = all.map(({ name, labels }) => JSON.stringify([name, labels]));
    expect(new Set(ids).size).toBe(ids.length);
  });

  it('have as many series after many keys as after one', async () => {
    const { lab } = await openLab();
    for (const operation of ['sign', 'refuse']) {
      await sign(lab, operation === 'sign' ? 'wallet' : 'nobodys').catch(() => undefined);
    }
    await read(lab); // which is a call that is counted as well
    const before = (await read(lab)).length;
    for (let at = 0; at < 25; at += 1) {
      const key = `wallet-${at}`;
      await lab.ask('operator', 'generate-key', { key, slot: 'main' });
      await sign(lab, key);
      await refusal(sign(lab, `nobodys-${at}`));
    }
    expect(await read(lab)).toHaveLength(before);
  });

  it('tell what was made from what was refused and what failed', async () => {
    const { lab, device } = await openLab();
    const before = await read(lab);
    await sign(lab);
    device.onSign = async () => {
      throw new KeyslotError('TOKEN_ERROR', 'broken');
    };
    expect(await refusal(sign(lab))).toBe('TOKEN_ERROR');
    const transaction = { bytes: [wireBytes(plain)] };
    expect(await refusal(sign(lab, 'wallet', transaction))).toBe('MESSAGE_IS_TRANSACTION');
    const after = await read(lab);
    for (const outcome of ['ok', 'refused', 'failed']) {
      const about = { slot: 'main', engine: 'memory', kind: 'message', outcome };
      expect(of(after, 'keyslot_sign_requests_total', about), outcome).toBe(1);
      expect(of(after, 'keyslot_requests_total', { operation: 'sign-message', outcome }), outcome).toBe(1);
    }
    expect(of(after, 'keyslot_sign_duration_seconds')).toBe(1);
    expect(of(before, 'keyslot_sign_duration_seconds')).toBeUndefined();
    expect(of(after, 'keyslot_sign_stage_duration_seconds', { stage: 'verify' })).toBe(1);
    expect(of(after, 'keyslot_sign_stage_duration_seconds', { stage: 'intent' })).toBe(2);
  });

  it('count each item of a batch, and a repeat that is answered from memory as no signature', async () => {
    const { lab, device } = await openLab();
    const bytes = ['one', 'two', 'three'].map(text);
    const items = bytes.map(() => 'message' as const);
    await lab.ask('signer', 'sign-batch', { key: 'wallet', items }, { bytes, idempotencyKey: 'once' });
    const made = device.asked.length;
    await lab.ask('signer', 'sign-batch', { key: 'wallet', items }, { bytes, idempotencyKey: 'once' });
    expect(device.asked.length).toBe(made);
    const all = await read(lab);
    expect(of(all, 'keyslot_sign_requests_total', { kind: 'batch', outcome: 'ok' })).toBe(6);
    expect(of(all, 'keyslot_sign_duration_seconds')).toBe(3);
  });

  it('say by which kind of rule policies refuse, without the name of the policy', async () => {
    const { lab } = await openLab({ policies: { documents: [] } });
    expect(await refusal(sign(lab))).toBe('POLICY_DENIED');
    const all = await read(lab);
    expect(of(all, 'keyslot_policy_decisions_total', { decision: 'deny', rule: 'no-policy' })).toBe(1);
    expect(of(all, 'keyslot_policy_decisions_total', { decision: 'allow' })).toBe(0);
  });

  it('count who is not known, by how they said who they are', async () => {
    const { lab } = await openLab();
    const call = { requestId: 'lab', credential: { token: '0'.repeat(64) } };
    expect(await refusal(lab.ask('nobody', 'list-slots', {}))).toBe('CREDENTIAL_MISSING');
    expect(await refusal(lab.custodian.call('list-slots', { input: {} }, call))).toBe('CREDENTIAL_UNKNOWN');
    expect(await refusal(lab.ask('roleless', 'list-slots', {}))).toBe('PERMISSION_DENIED');
    const all = await read(lab);
    expect(of(all, 'keyslot_auth_failures_total', { method: 'none', reason: 'CREDENTIAL_MISSING' })).toBe(1);
    expect(of(all, 'keyslot_auth_failures_total', { method: 'token', reason: 'CREDENTIAL_UNKNOWN' })).toBe(1);
    expect(all.filter(({ name }) => name === 'keyslot_auth_failures_total')).toHaveLength(2);
  });

  it('follow the audit log record by record', async () => {
    const { lab } = await openLab();
    const written = of(await read(lab), 'keyslot_audit_records_total') ?? 0;
    await sign(lab);
    const all = await read(lab);
    expect(of(all, 'keyslot_audit_records_total')).toBe(written + 2);
    expect(of(all, 'keyslot_audit_last_seq')).toBe(lab.custodian.audit.status().size - 1);
    expect(of(all, 'keyslot_audit_backlog_records')).toBe(0);
    expect(of(all, 'keyslot_audit_commit_duration_seconds')).toBeGreaterThan(1);
  });

  it('show by how much the clock of the machine was set', async () => {
    let set_ms = 0;
    const clock: Clock = {
      monotonic_ms: () => performance.now(),
      utc: () => new Date(Date.now() + set_ms),
    };
    const { lab } = await openLab({ clock });
    expect(Math.abs(of(await read(lab), 'keyslot_clock_offset_seconds') ?? 99)).toBeLessThan(1);
    set_ms = 3_600_000;
    expect(of(await read(lab), 'keyslot_clock_offset_seconds')).toBeCloseTo(3_600, 0);
    const { checks } = (await lab.ask('nobody', 'show-health', {})).output;
    expect(checks.find(({ id }) => id === 'clock')?.status).toBe('warn');
  });

  it('have what the session of a slot counts, for as long as it is open', async () => {
    const device = opened.use(await Device.make());
    const figures: SessionFigures = {
      places_max: 8,
      busy: 3,
      waiting: 5,
      writtenOff: 1,
      writtenOffTotal: 4,
      errors: new Map([['CKR_DEVICE_ERROR', 7]]),
      outages: new Map([['device', 2]]),
      recovered: 2,
      unrecovered: 9,
    };
    const counting = {
      ...device.slot,
      open: async (pin: Secret) => Object.assign(await device.slot.open(pin), { figures }),
    };
    const lab = opened.use(await Lab.open({ slot: counting }));
    const all = await read(lab);
    const slot = 'main';
    const sessions = ['busy', 'written-off', 'idle'].map(state =>
      of(all, 'keyslot_pkcs11_sessions', { slot, state }),
    );
    expect(sessions).toEqual([2, 1, 5]);
    expect(of(all, 'keyslot_pkcs11_requests_waiting', { slot })).toBe(5);
    expect(of(all, 'keyslot_pkcs11_calls_written_off_total', { slot })).toBe(4);
    expect(of(all, 'keyslot_pkcs11_errors_total', { slot, ckr: 'CKR_DEVICE_ERROR' })).toBe(7);
    expect(of(all, 'keyslot_pkcs11_outages_total', { slot, class: 'device' })).toBe(2);
    expect(of(all, 'keyslot_pkcs11_recovery_attempts_total', { slot, result: 'failed' })).toBe(9);
    await lab.ask('operator', 'lock-slot', { slot });
    expect((await read(lab)).filter(({ name }) => name.startsWith('keyslot_pkcs11_'))).toEqual([]);
  });
});

describe('the figures of a token', () => {
  const poolOf = (call_ms: number) =>
    new SessionPool({
      size: 2,
      queue_max: 10,
      open: () => Buffer.alloc(8),
      discard: () => undefined,
      call_ms,
    });

  it('say who works, who waits, and what has not come back', async () => {
    const pool = poolOf(20);
    const gate = Promise.withResolvers<void>();
    const calls = [1, 2, 3].map(() => pool.use(() => gate.promise));
    expect(pool.figures).toEqual({ places_max: 2, busy: 2, waiting: 1, writtenOff: 0, writtenOffTotal: 0 });
    expect(await Promise.all(calls.slice(0, 2).map(refusal))).toEqual([
      'DEADLINE_EXCEEDED',
      'DEADLINE_EXCEEDED',
    ]);
    expect(pool.figures).toMatchObject({ waiting: 1, writtenOff: 2, writtenOffTotal: 2 });
    gate.resolve();
    await calls[2];
    expect(pool.figures).toMatchObject({ busy: 0, waiting: 0, writtenOff: 0, writtenOffTotal: 2 });
  });

  it('count outages by their class, attempts by what came of them, and no more codes than there may be', async () => {
    let broken = 2;
    const back = Promise.withResolvers<void>();
    const recovery = new Recovery({
      slot: slotId('main'),
      pool: poolOf(1_000),
      patience: { ...ordinaryPatience, pause_ms_min: 1, pause_ms_max: 1 },
      log: silentLog,
      mend: async () => {
        broken -= 1;
        if (broken >= 0) throw new KeyslotError('TOKEN_UNAVAILABLE', 'still away');
      },
      beyondHelp: () => false,
    });
    recovery.onHealth(({ state }) => {
      if (state === 'serving') back.resolve();
    });
    recovery.begin(new KeyslotError('TOKEN_UNAVAILABLE', 'away'), 'device');
    recovery.begin(new KeyslotError('TOKEN_UNAVAILABLE', 'away'), 'login');
    await back.promise;
    expect(recovery.figures).toMatchObject({
      outages: new Map([['device', 1]]),
      recovered: 1,
      unrecovered: 2,
    });
    for (let code = 0; code < 1_000; code += 1) recovery.met(`CKR_0x${code}`);
    expect(recovery.figures.errors.size).toBe(65);
    expect(recovery.figures.errors.get('other')).toBe(936);
  });
});

describe('a histogram', () => {
  it('puts a value that is a bound below it, and what is above all bounds into the last bucket', () => {
    const histogram = new Histogram([1, 2, 5]);
    for (const value of [0.5, 1, 1.5, 2, 5, 6]) histogram.observe(value);
    expect(histogram.buckets).toEqual([2, 2, 1, 1]);
    expect(histogram.sum).toBe(16);
  });
});
