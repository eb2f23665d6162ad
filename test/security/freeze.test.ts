import { rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { everythingAllowed } from '../../src/policy/permissive.ts';
import { Gate } from '../custodian/device.ts';
import { refusal, text, type Who } from '../custodian/lab.ts';
import { World } from './lab.ts';

let world: World;
let file: string;

beforeEach(async () => {
  world = await World.open();
  file = join(world.lab.folder, 'freeze');
  await withFile();
});

afterEach(() => world[Symbol.asyncDispose]());

/** A restart with the file of the configuration. */
async function withFile(): Promise<void> {
  world.lab.settings = {
    policies: { documents: [everythingAllowed('everything', 'all')], freezeFile: file },
  };
  await world.restart();
}

const sign = () => refusal(world.signMessage(text('a payment')));
const reason = 'something is wrong';
const scopes = [
  { scope: 'appliance' as const },
  { scope: 'slot' as const, target: 'main' },
  { scope: 'key' as const, target: 'wallet' },
];
const idOf = ({ scope, target }: { scope: string; target?: string }) =>
  target ? `${scope}/${target}` : scope;

/** The file is looked at twice a second. */
async function noticed(code: string): Promise<void> {
  for (let time = 0; (await sign()) !== code; time += 1) {
    expect(time).toBeLessThan(200);
    await new Promise(done => setTimeout(done, 20));
  }
}

describe.each(scopes)('a freeze of the $scope', freeze => {
  it('stops signing at once, in every form, and survives a restart', async () => {
    await world.lab.ask('operator', 'freeze', { ...freeze, reason });
    for (let start = 0; start < 2; start += 1) {
      expect(await sign()).toBe('FROZEN');
      const items = { key: 'wallet', items: ['message' as const] };
      const batch = await world.lab.ask('signer', 'sign-batch', items, { bytes: [text('a payment')] });
      expect(batch.output.results).toMatchObject([{ code: 'FROZEN' }]);
      const bytes = { bytes: [text('a payment')] };
      const raw = await world.lab.ask('signer', 'sign-bytes', { key: 'wallet' }, bytes);
      expect(raw.output.results).toMatchObject([{ code: 'FROZEN' }]);
      await world.restart();
    }
    expect(world.signerCalls).toBe(0);
  });

  it('gives out no signature of before, to no repeat', async () => {
    const rest = { idempotencyKey: 'payment-1' };
    await world.signMessage(text('a payment'), rest);
    await world.lab.ask('operator', 'freeze', { ...freeze, reason });
    expect(await refusal(world.signMessage(text('a payment'), rest))).toBe('FROZEN');
  });

  it('is lifted by an admin alone', async () => {
    await world.lab.ask('operator', 'freeze', { ...freeze, reason });
    const thaw = (who: Who) => refusal(world.lab.ask(who, 'thaw', { freeze: idOf(freeze), reason }));
    for (const who of ['operator', 'signer', 'both', 'approver', 'auditor', 'metrics', 'backup'] as const) {
      expect(await thaw(who)).toBe('PERMISSION_DENIED');
    }
    expect(await sign()).toBe('FROZEN');
    expect(await thaw('admin')).toBe('none');
    expect(await sign()).toBe('none');
  });

  it('by a file holds until an admin lifts it: taking the file away does not', async () => {
    writeFileSync(file, idOf(freeze));
    await noticed('FROZEN');
    const thaw = () => refusal(world.lab.ask('admin', 'thaw', { freeze: idOf(freeze), reason }));
    expect(await thaw()).toBe('FROZEN'); // while the file is there not even an admin
    rmSync(file);
    await world.restart();
    expect(await sign()).toBe('FROZEN');
    expect(await thaw()).toBe('none');
    expect(await sign()).toBe('none');
    const frozen = (await world.records()).filter(
      ({ operation, type }) => operation === 'freeze' && type === 'event',
    );
    expect(frozen).toMatchObject([{ actor: 'file', outcome: 'ok', detail: { freeze: idOf(freeze) } }]);
  });
});

it.each(['', 'nonsense', 'slot/../main', '\0', 'key/wallet\nwhatever'])(
  'a file that says %j freezes more rather than less, from the first moment of a start on',
  async content => {
    writeFileSync(file, content);
    await world.restart();
    expect(await sign()).toBe('FROZEN');
    expect(world.signerCalls).toBe(0);
  },
);

it('a freeze in the middle of a batch stops all that was not handed to the device yet', async () => {
  const gate = new Gate();
  world.device.onSign = async ({ honest }) => {
    if (world.signerCalls > 20) await gate.pass();
    return honest();
  };
  const messages = Array.from({ length: 100 }, (_, at) => text(`payment ${at}`));
  const items = { key: 'wallet', items: messages.map(() => 'message' as const) };
  const batch = world.lab.ask('signer', 'sign-batch', items, { bytes: messages });
  await gate.reached;
  await world.lab.ask('operator', 'freeze', { scope: 'key', target: 'wallet', reason });
  const handedOver = world.signerCalls;
  gate.open();
  const { results } = (await batch).output;
  const frozen = results.filter(result => 'code' in result && result.code === 'FROZEN');
  expect(world.signerCalls).toBe(handedOver);
  expect(frozen).toHaveLength(100 - handedOver);
  expect(handedOver).toBeLessThan(30);
});
