import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { rights } from '../../src/custodian/authority.ts';
import type { Grant, GrantOperation, Role } from '../../src/custodian/grants.ts';
import type { Identity } from '../../src/custodian/identities.ts';
import { KeyslotError } from '../../src/foundation/errors.ts';
import { type OperationName, operations, type Request } from '../../src/wire/custodian.ts';
import { grantOperations, roles } from '../../src/wire/identities.ts';
import type { SlotState } from '../../src/wire/views.ts';
import { plain, wireBytes } from '../solana/compiled.ts';
import { Device, pinText } from './device.ts';
import { Lab, people, refusal, robot, sha256, text } from './lab.ts';

/** docs/permissions.md, asked cell by cell: every operation, by every role, on a slot in every state. */

const states = ['open', 'locked', 'failed', 'latched'] as const satisfies readonly SlotState[];
type State = (typeof states)[number];
type Who = Role | 'nothing';
const everybody: readonly Who[] = [...roles, 'nothing'];
const names = Object.keys(operations) as OperationName[];
let made = 0;

/** A request about a slot and a key; it may fail, and leaves the slot and its key fit for the next one. */
function requestOf(name: OperationName, slot: string, key: string): Request<OperationName> {
  made += 1;
  const fresh = `made-${made}`;
  const inputs: { [N in OperationName]: Request<N> } = {
    'list-slots': { input: {} },
    'list-groups': { input: {} },
    'show-slot': { input: { slot } },
    'open-slot': { input: { slot }, bytes: [text(pinText)] },
    'lock-slot': { input: { slot } },
    'clear-latch': { input: { slot } },
    'try-slot': { input: { slot } },
    'open-session': { input: { slot }, bytes: [text(pinText)] },
    'close-session': { input: {} },
    'list-keys': { input: { limit: 10 } },
    'show-key': { input: { key } },
    'generate-key': { input: { key: fresh, slot } },
    'import-key': { input: { key: fresh, slot }, bytes: [new Uint8Array(32).fill(made)] },
    'adopt-key': { input: { key: fresh, slot } },
    'tag-key': { input: { key, tags: [] } },
    'disable-key': { input: { key } },
    'enable-key': { input: { key } },
    'export-key': { input: { key } },
    'destroy-key': { input: { key } },
    'sign-message': { input: { key }, bytes: [text('a message')] },
    'sign-transaction': { input: { key }, bytes: [wireBytes(plain)] },
    'sign-batch': { input: { key, items: ['message'] }, bytes: [text('a message')] },
    'sign-bytes': { input: { key }, bytes: [text('a message')] },
    verify: { input: { key }, bytes: [text('a message'), new Uint8Array(64)] },
    'create-wallet': { input: {} },
    'list-wallets': { input: {} },
    'show-wallet': { input: { key } },
    'plan-migration': { input: { from: slot, to: 'other' } },
    'start-migration': { input: { from: slot, to: slot } },
    'list-migrations': { input: {} },
    'show-migration': { input: { migration: 'm-0', limit: 10 } },
    'run-migration': { input: { migration: 'm-0', max: 1 } },
    'verify-migration': { input: { migration: 'm-0', max: 1 } },
    'rollback-migration': { input: { migration: 'm-0', max: 1 } },
    'destroy-copies': { input: { migration: 'm-0', max: 1 } },
    login: { input: { roleId: robot.roleId }, bytes: [text(robot.secretId)] },
    'list-policies': { input: {} },
    'show-policy': { input: { policy: 'unknown' } },
    'put-policy': { input: { policy: 'broken', document: {} } },
    'delete-policy': { input: { policy: 'unknown' } },
    'evaluate-policy': { input: { key, kind: 'message' }, bytes: [text('a message')] },
    'list-freezes': { input: {} },
    freeze: { input: { scope: 'key', target: 'unknown', reason: 'a test' } },
    thaw: { input: { freeze: 'key/unknown', reason: 'a test' } },
    'list-approvals': { input: {} },
    'show-approval': { input: { approval: 'unknown' } },
    'request-approval': { input: { operation: 'unknown', input: {}, reason: 'a test' } },
    'decide-approval': { input: { approval: 'unknown', decision: 'reject', digest: sha256('') } },
    'who-am-i': { input: {} },
    'list-identities': { input: {} },
    'create-identity': { input: { identity: fresh, shape: { roles: ['signer'], grants: [] } } },
    'delete-identity': { input: { identity: 'unknown' } },
    'list-tokens': { input: {} },
    'issue-token': { input: { identity: 'unknown', label: '', expires_s: 1 } },
    'revoke-token': { input: { token: 'unknown' } },
    'audit-status': { input: {} },
    'read-audit': { input: { from: 0, limit: 1 } },
    'prove-audit': { input: { seq: 0 } },
    'audit-consistency': { input: { from: 0, to: 0 } },
    'list-checkpoints': { input: { from: 0, limit: 1 } },
    'prune-audit': { input: { below: 1 } },
    health: { input: {} },
    'show-health': { input: {} },
    metrics: { input: {} },
    drain: { input: { drain: true } },
    reload: { input: {} },
    'show-reload': { input: {} },
  };
  return inputs[name];
}

const everything: Grant = { slots: '*', operations: [...grantOperations] };
const other: Grant = { slots: ['other'], operations: [...grantOperations] };

const person = (name: string, of: readonly Role[], grants: readonly Grant[]): Identity => ({
  name,
  roles: of,
  grants,
  source: 'configuration',
  recognisedBy: { token: sha256(name) },
});

const working = roles.filter(role => role !== 'admin' && role !== 'auditor');
const grantees: readonly Identity[] = [
  ...roles.map(role => person(`role-${role}`, [role], [everything])),
  person('role-nothing', [], [everything]),

  person('role-neighbour', working, [other]),
  ...grantOperations.flatMap(operation => {
    const rest = grantOperations.filter(each => each !== operation);
    return [
      person(`only-${operation}`, roles, [{ slots: '*', operations: [operation] }]),
      person(`all-but-${operation}`, roles, [{ slots: '*', operations: rest }]),
    ];
  }),
];

const devices = new Map<State | 'other', Device>();
let lab: Lab;

beforeAll(async () => {
  for (const id of [...states, 'other'] as const) devices.set(id, await Device.make(id));
  lab = await Lab.with(
    { identities: [...Object.values(people), ...grantees], exports: true },
    ...[...devices.values()].map(({ slot }) => ({ slot, source: () => pinText })),
  );
  await lab.custodian.openUnattended();
  for (const slot of states) await lab.ask('operator', 'generate-key', { key: `in-${slot}`, slot });
  bend('failed', new KeyslotError('TOKEN_UNAVAILABLE', 'The device has gone.'));
  bend('latched', new KeyslotError('PIN_REFUSED', 'The PIN is wrong.'));
  for (const state of states) await restore(state);
});

afterAll(async () => {
  await lab[Symbol.asyncDispose]();
  for (const device of devices.values()) await device[Symbol.asyncDispose]();
});

/** From now on the device of this slot does not open. */
function bend(state: State, error: KeyslotError): void {
  const device = devices.get(state);
  if (device) device.onOpen = () => Promise.reject(error);
}

const changing: readonly OperationName[] = ['open-slot', 'lock-slot', 'clear-latch', 'disable-key'];

/** Puts the slot back into the state that it is named for. */
async function restore(state: State): Promise<void> {
  await lab.ask('admin', 'enable-key', { key: `in-${state}` });
  if ((await lab.state(state)) === state) return;
  if (state !== 'open') await lab.ask('operator', 'lock-slot', { slot: state });
  if (state !== 'locked') await refusal(lab.ask('operator', 'open-slot', { slot: state }));
  expect(await lab.state(state)).toBe(state);
}

/** The code that somebody is answered with. */
function asked(who: string, name: OperationName, slot: string, key: string): Promise<string> {
  const credential = { token: sha256(who) };
  return refusal(lab.custodian.call(name, requestOf(name, slot, key), { requestId: 'lab', credential }));
}

const hasRole = (who: Who, name: OperationName): boolean => {
  const right = rights[name].roles;
  return typeof right === 'string' || (who !== 'nothing' && right.includes(who));
};

describe('the table of rights', () => {
  it('has every operation', () => {
    expect(Object.keys(rights).toSorted()).toEqual(names.toSorted());
  });

  it.each(names)('says of %s who is let in, whatever the state of the slot', async name => {
    for (const state of states) {
      for (const who of everybody) {
        // A key that is destroyed is gone for good: whether there is one comes behind the role.
        const key = name === 'destroy-key' ? 'unknown' : `in-${state}`;
        const code = await asked(`role-${who}`, name, state, key);
        const cell = `${name} by ${who} on a slot that is ${state}`;
        if (hasRole(who, name)) expect(code, cell).not.toMatch(/^(PERMISSION_DENIED|CREDENTIAL_)/);
        else expect(code, cell).toBe('PERMISSION_DENIED');
        if (hasRole(who, name) && changing.includes(name)) await restore(state);
      }
    }
  });
});

const aboutKey = names.filter(
  name => 'key' in requestOf(name, '', '').input && !/generate|import|adopt/.test(name),
);
const aboutSlot = names.filter(name => 'slot' in requestOf(name, '', '').input);

describe('the keys and slots of others', () => {
  // The others are for admins, who know them all.
  const asking = [...aboutKey, ...aboutSlot].filter(name => working.some(role => hasRole(role, name)));

  it.each(asking)('do not exist for %s, whatever the state of the slot', async name => {
    for (const state of states) {
      const code = await asked('role-neighbour', name, state, `in-${state}`);
      expect(code, state).toBe(aboutSlot.includes(name) ? 'SLOT_UNKNOWN' : 'KEY_UNKNOWN');
      expect(await asked('role-neighbour', name, 'nowhere', 'unknown'), state).toBe(code);
    }
  });
});

describe('a grant', () => {
  const granted = [...aboutKey, ...aboutSlot].filter(
    name => rights[name].grants?.length === 1 && name !== 'destroy-key',
  );

  it('to manage a key is what destroying it takes', async () => {
    await lab.ask('operator', 'generate-key', { key: 'doomed', slot: 'open' });
    expect(await asked('all-but-manage', 'destroy-key', 'open', 'doomed')).toBe('PERMISSION_DENIED');
    expect(await asked('only-manage', 'destroy-key', 'open', 'doomed')).not.toMatch(
      /PERMISSION_DENIED|_UNKNOWN$/,
    );
  });

  it.each(granted)('for what %s takes is enough, and all the others are not', async name => {
    const [operation] = rights[name].grants as readonly [GrantOperation];
    expect(await asked(`all-but-${operation}`, name, 'open', 'in-open')).toBe('PERMISSION_DENIED');
    const hidden = aboutSlot.includes(name) ? 'SLOT_UNKNOWN' : 'KEY_UNKNOWN';
    const code = await asked(`only-${operation}`, name, 'open', 'in-open');
    // A key that the device does not have is KEY_UNKNOWN to whoever may adopt.
    expect(['PERMISSION_DENIED', name === 'adopt-key' ? 'SLOT_UNKNOWN' : hidden]).not.toContain(code);
    await restore('open');
  });
});
