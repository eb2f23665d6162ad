import { DatabaseSync } from 'node:sqlite';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import type { Identity } from '../../src/custodian/identities.ts';
import type { Configuration } from '../../src/custodian/reload.ts';
import { SlotKeeper, type SlotSetting } from '../../src/custodian/slot-keeper.ts';
import { type SlotId, slotId } from '../../src/custody/ids.ts';
import { KeyslotError } from '../../src/foundation/errors.ts';
import { Secret } from '../../src/foundation/secret.ts';
import { everythingAllowed } from '../../src/policy/permissive.ts';
import type { OperationName } from '../../src/wire/custodian.ts';
import type { ReloadDiff } from '../../src/wire/reload.ts';
import { errno, faulty } from '../audit/lab.ts';
import { Device, failing, Gate, pinText } from './device.ts';
import {
  absolute_ms,
  idle_ms,
  Lab,
  type LabSettings,
  people,
  refusal,
  robot,
  sha256,
  text,
  type Who,
} from './lab.ts';

/** A custodian that takes the configurations that a test gives it; where they come from is no matter here. */

let opened = new AsyncDisposableStack();
let lab: Lab;
/** What the next configuration says; everything else is as the lab has it. */
let next: Partial<Configuration>;
/** What became of the configurations: `kept`, `disposed`, `retired main`. */
let fates: string[];

beforeEach(() => {
  next = {};
  fates = [];
});

afterEach(async () => {
  await opened.disposeAsync();
  opened = new AsyncDisposableStack();
});

const none = { added: [], changed: [], removed: [] };
const something: ReloadDiff = {
  slots: none,
  groups: none,
  identities: none,
  jwtIssuers: none,
  policies: none,
  certificates: [],
  settings: ['exports.enabled'],
};
const identities: readonly Identity[] = Object.values(people);
const rekeyed = identities.map(each =>
  each.name === 'signer' ? { ...each, recognisedBy: { token: sha256('another token') } } : each,
);
const everything = everythingAllowed('everything', 'all');

const source = async (): Promise<Configuration> => {
  const slots = { all: [slotId('main')], added: [], adjusted: [] };
  const common = { diff: something, slots, groups: [], people: { identities }, policies: [everything] };
  return Object.defineProperties(
    {
      ...common,
      sessions: { idle_ms, absolute_ms },
      approvals: new Map(),
      exports: false,
      keep: async () => void fates.push('kept'),
      retire: async (slot: SlotId) => void fates.push(`retired ${slot}`),
      [Symbol.asyncDispose]: async () => void fates.push('disposed'),
    },
    Object.getOwnPropertyDescriptors(next), // with its getters
  );
};

/** A lab with the open slot `main`, which holds the key `wallet`. */
async function start(settings: LabSettings = {}, ...devices: readonly Device[]): Promise<Device> {
  const main = opened.use(await Device.make());
  const slots = [main, ...devices].map(({ slot }) => ({ slot, source: () => pinText }));
  lab = opened.use(await Lab.with({ source, ...settings }, ...slots));
  expect(await lab.custodian.openUnattended()).toEqual([]);
  await lab.ask('operator', 'generate-key', { key: 'wallet', slot: 'main' });
  return main;
}

const reload = () => refusal(lab.ask('operator', 'reload', {}));

const settingOf = ({ slot }: Device, pin = pinText): SlotSetting => ({
  slot,
  access: 'identity',
  readPin: async () => Secret.fromText(pin),
});

/** Slots beside `main`. */
const beside = (...added: readonly SlotSetting[]): Configuration['slots'] => ({
  all: [slotId('main'), ...added.map(({ slot }) => slot.id)],
  added,
  adjusted: [],
});

let asked = 0;
const sign = (who: Who = 'signer', key = 'wallet') => {
  asked += 1;
  return refusal(lab.ask(who, 'sign-message', { key }, { bytes: [text(`message ${asked}`)] }));
};

const names = async () =>
  (await lab.ask('admin', 'list-identities', {})).output.identities.map(({ name }) => name);
const policies = async () =>
  (await lab.ask('admin', 'list-policies', {})).output.policies.map(
    ({ name, version }) => `${name}@${version}`,
  );
const slots = async () => (await lab.ask('operator', 'list-slots', {})).output.slots;
const groups = async () => (await lab.ask('operator', 'list-groups', {})).output.groups;

/** How many follow the keepers of this test, however they came to. */
let followers = 0;
const { onChange, onState } = SlotKeeper.prototype;

beforeAll(() => {
  SlotKeeper.prototype.onChange = counted(onChange);
  SlotKeeper.prototype.onState = counted(onState);
});

afterAll(() => Object.assign(SlotKeeper.prototype, { onChange, onState }));

function counted<L>(follow: (this: SlotKeeper, listener: L) => () => void) {
  return function (this: SlotKeeper, listener: L): () => void {
    const unfollow = follow.call(this, listener);
    followers += 1;
    let isOver = false;
    return () => {
      if (!isOver) followers -= 1;
      isOver = true;
      unfollow();
    };
  };
}

describe('what was made through the API while a configuration is taken', () => {
  const anna = { identity: 'anna', shape: { roles: ['signer' as const], grants: [] } };
  const mine = { ...everything, name: 'mine' };

  it('is still there: an identity and a policy, made while a new slot is being opened', async () => {
    await start();
    const device = opened.use(await Device.make('late'));
    const gate = new Gate();
    device.onOpen = async honest => {
      await gate.pass();
      return honest();
    };
    next = { slots: beside(settingOf(device)), policies: [everything, { ...everything, name: 'more' }] };
    const reloading = reload();
    await gate.reached;
    await lab.ask('admin', 'create-identity', anna);
    await lab.ask('admin', 'put-policy', { policy: 'mine', document: mine });
    expect(await reload()).toBe('RELOAD_BUSY');
    gate.open();
    expect(await reloading).toBe('none');
    expect(await names()).toContain('anna');
    expect(await policies()).toEqual(expect.arrayContaining(['everything@1', 'mine@1', 'more@1']));
    expect(fates).toEqual(['kept', 'disposed']);
    await lab.restart();
    expect(await names()).toContain('anna');
  });

  it('is still there when it is written at the same moment', async () => {
    await start();
    const making: Promise<unknown>[] = [];
    next = {
      get policies() {
        making.push(lab.ask('admin', 'create-identity', anna));
        making.push(lab.ask('admin', 'put-policy', { policy: 'mine', document: mine }));
        return [everything];
      },
    };
    expect(await reload()).toBe('none');
    await Promise.all(making);
    expect(making).toHaveLength(2);
    expect(await names()).toContain('anna');
    expect((await policies()).toSorted()).toEqual(['everything@1', 'mine@1']);
  });

  it('gives way to what the configuration says', async () => {
    await start();
    await lab.ask('admin', 'create-identity', anna);
    const configured: Identity = { name: 'anna', roles: ['auditor'], grants: [], source: 'configuration' };
    next = { people: { identities: [...identities, configured] } };
    expect(await reload()).toBe('none');
    const { output } = await lab.ask('admin', 'list-identities', {});
    expect(output.identities.filter(({ name }) => name === 'anna')).toMatchObject([
      { roles: ['auditor'], source: 'configuration' },
    ]);
  });
});

describe('a configuration that cannot be taken', () => {
  const unlike = (device: Device): SlotSetting['slot'] => ({
    id: device.slot.id,
    describe: async () => ({ ...(await device.slot.describe()), custody: 'hsm-native' }),
    open: (pin, signal) => device.slot.open(pin, signal),
  });

  const broken: readonly (readonly [what: string, code: string, breaks: (late: Device) => unknown])[] = [
    [
      'a slot that cannot be described',
      'RELOAD_REFUSED',
      late => {
        const absent = () => Promise.reject(new KeyslotError('TOKEN_NOT_FOUND', 'As the test says.'));
        const added = { ...settingOf(late), slot: { id: slotId('absent'), describe: absent, open: absent } };
        next = { slots: beside(settingOf(late), added) };
      },
    ],
    [
      'a slot whose PIN is refused',
      'RELOAD_REFUSED',
      late => {
        next = { slots: beside(settingOf(late, 'wrong')) };
      },
    ],
    [
      'an identity twice',
      'RELOAD_REFUSED',
      late => {
        next = {
          slots: beside(settingOf(late)),
          people: { identities: [...identities, { ...people.signer, name: 'twin' }] },
        };
      },
    ],
    [
      'a group of unlike slots',
      'RELOAD_REFUSED',
      late => {
        const members = ['main', 'late'].map(slot => ({ slot: slotId(slot), weight: 1 }));
        next = {
          slots: beside({ ...settingOf(late), slot: unlike(late) }),
          groups: [{ id: 'treasury', members }],
        };
      },
    ],
    [
      'a policy that is none',
      'RELOAD_REFUSED',
      late => {
        next = { slots: beside(settingOf(late)), policies: [{ name: 'mine', appliesTo: 'all', x: 1 }] };
      },
    ],
    [
      'a store that fails',
      'STORE_FAILED',
      late => {
        const members = ['main', 'late'].map(slot => ({ slot: slotId(slot), weight: 1 }));
        next = {
          slots: beside(settingOf(late)),
          groups: [{ id: 'treasury', members }],
          people: { identities: identities.filter(({ name }) => name !== 'signer') },
        };
        using database = new DatabaseSync(lab.storeFile);
        database.exec('ALTER TABLE policies RENAME TO elsewhere');
      },
    ],
  ];

  it.each(broken)('for %s changes nothing, and leaves nobody behind', async (_what, code, breaks) => {
    const main = await start();
    const late = opened.use(await Device.make('late'));
    const state = async () => [await names(), await policies(), await slots(), await groups()];
    const before = await state();
    const followed = followers;
    await breaks(late);
    expect(await reload()).toBe(code);
    expect(await state()).toEqual(before);
    expect([fates, followers]).toEqual([['disposed'], followed]);
    const { output } = await lab.ask('auditor', 'show-reload', {});
    expect(output).toMatchObject({ running: false, last: { outcome: 'refused', by: 'operator' } });
    expect(await sign()).toBe('none');
    expect(main.pinsHeard).toHaveLength(1);
    await late.behind(async () => undefined); // it is not open any more
  });
});

it('that cannot be recorded is not taken, and the store hears nothing of it', async () => {
  const full = faulty((operation, _file, _path, bytes) => {
    const text = Buffer.from(bytes).toString();
    if (operation === 'write' && text.includes('"type":"event"') && text.includes('"operation":"reload"')) {
      throw errno('ENOSPC');
    }
  });
  await start({ audit: { file: full } });
  const before = await policies();
  next = { policies: [everything, { ...everything, name: 'more' }] };
  expect(await reload()).toBe('AUDIT_UNAVAILABLE');
  expect(await policies()).toEqual(before);
  using database = new DatabaseSync(lab.storeFile, { readOnly: true });
  expect(database.prepare("SELECT name FROM policies WHERE name = 'more'").all()).toEqual([]);
  expect(fates).toEqual(['disposed']);
});

describe('tokens', () => {
  const whoIs = (token: Uint8Array | undefined) => {
    const credential = { token: sha256(token ?? '') };
    return refusal(lab.custodian.call('who-am-i', { input: {} }, { requestId: 'lab', credential }));
  };

  it('of a role id stay good while role and secret id do', async () => {
    await start();
    const login = { input: { roleId: robot.roleId }, bytes: [text(robot.secretId)] };
    const { bytes } = await lab.custodian.call('login', login, { requestId: 'lab' });
    expect(await reload()).toBe('none');
    expect(await whoIs(bytes?.[0])).toBe('none');
    const other = { roleId: robot.roleId, secretId: sha256('another secret id') };
    const changed = identities.map(each => (each.appRole ? { ...each, appRole: other } : each));
    next = { people: { identities: changed } };
    expect(await reload()).toBe('none');
    expect(await whoIs(bytes?.[0])).toBe('CREDENTIAL_UNKNOWN');
    next = {};
    expect(await reload()).toBe('none');
    expect(await whoIs(bytes?.[0])).toBe('CREDENTIAL_UNKNOWN');
  });

  it('of an identity that is gone are revoked, and do not come back with its name', async () => {
    const apiTokens = { key: Secret.fromBytes(Buffer.alloc(32, 7)), max_s: 3_600 };
    await start({ apiTokens });
    const order = { identity: 'signer', label: 'a test', expires_s: 600 };
    const { bytes } = await lab.ask('admin', 'issue-token', order);
    next = { people: { identities, apiTokens } };
    expect(await reload()).toBe('none');
    expect(await whoIs(bytes?.[0])).toBe('none');
    next = { people: { identities: identities.filter(({ name }) => name !== 'signer'), apiTokens } };
    expect(await reload()).toBe('none');
    expect(await whoIs(bytes?.[0])).toBe('CREDENTIAL_EXPIRED');
    next = { people: { identities, apiTokens } };
    expect(await reload()).toBe('none');
    expect(await sign()).toBe('none');
    expect(await whoIs(bytes?.[0])).toBe('CREDENTIAL_EXPIRED');
  });

  it('are nobody’s once the configuration does not know of API tokens any more', async () => {
    const apiTokens = { key: Secret.fromBytes(Buffer.alloc(32, 7)), max_s: 3_600 };
    await start({ apiTokens });
    const order = { identity: 'signer', label: 'a test', expires_s: 600 };
    const { bytes } = await lab.ask('admin', 'issue-token', order);
    expect(await reload()).toBe('none');
    expect(await whoIs(bytes?.[0])).toBe('CREDENTIAL_UNKNOWN');
    expect(await refusal(lab.ask('admin', 'issue-token', order))).toBe('API_TOKENS_DISABLED');
  });
});

describe('approvals', () => {
  const input = { policy: 'mine', document: { ...everything, name: 'mine' } };
  const needed = (people: number) => new Map<OperationName, number>([['put-policy', people]]);

  /** Somebody has requested it, and these people said yes. */
  async function approvedBy(...approvers: readonly Who[]): Promise<string> {
    const order = { operation: 'put-policy', input, reason: 'a test' };
    const { id, digest } = (await lab.ask('admin', 'request-approval', order)).output;
    for (const who of approvers) {
      await lab.ask(who, 'decide-approval', { approval: id, decision: 'approve', digest });
    }
    return id;
  }

  const put = (approval: string) => refusal(lab.ask('admin', 'put-policy', input, { approval }));

  it('of somebody who is another by now do not count, and those of all others do', async () => {
    await start({ approvals: needed(1) });
    const [first, second] = [await approvedBy('approver'), await approvedBy('secondApprover')];
    const changed = identities.map(each =>
      each.name === 'approver' ? { ...each, recognisedBy: { token: sha256('another token') } } : each,
    );
    next = { people: { identities: changed }, approvals: needed(1) };
    expect(await reload()).toBe('none');
    expect(await put(first)).toBe('APPROVAL_UNUSABLE');
    expect(await put(second)).toBe('none');
  });

  it('of fewer people than it takes by now are not enough', async () => {
    await start({ approvals: needed(1) });
    const [one, two] = [await approvedBy('approver'), await approvedBy('approver', 'secondApprover')];
    next = { approvals: needed(2) };
    expect(await reload()).toBe('none');
    expect(await put(one)).toBe('APPROVAL_UNUSABLE');
    expect(await put(two)).toBe('none');
  });

  it('are needed from now on where none was before', async () => {
    await start();
    next = { approvals: needed(1) };
    expect(await reload()).toBe('none');
    expect(await refusal(lab.ask('admin', 'put-policy', input))).toBe('APPROVAL_REQUIRED');
  });
});

describe('a slot', () => {
  it('that takes the place of another one opens when that one has ended', async () => {
    const before = await start();
    const after = opened.use(await Device.make());
    const gate = new Gate();
    before.onClose = () => gate.pass();
    next = { slots: { all: [slotId('main')], added: [settingOf(after)], adjusted: [] } };
    const reloading = reload();
    await gate.reached;
    expect(after.pinsHeard).toEqual([]);
    expect(await sign()).toBe('SLOT_LOCKED');
    gate.open();
    expect(await reloading).toBe('none');
    expect(fates).toEqual(['kept', 'retired main', 'disposed']);
    expect(await lab.state()).toBe('degraded');
    expect(await sign()).toBe('KEY_MISSING');
    const { output } = await lab.ask('operator', 'show-reload', {});
    expect(output.last?.result?.keysGone).toEqual([{ slot: 'main', key: 'wallet' }]);
  });

  it('that has gone ends, and so do tokens, when the others cannot be told of the configuration', async () => {
    const apiTokens = { key: Secret.fromBytes(Buffer.alloc(32, 7)), max_s: 3_600 };
    const main = await start({ apiTokens });
    await lab.ask('admin', 'issue-token', { identity: 'signer', label: 'a test', expires_s: 600 });
    const tooLate = new KeyslotError('DEADLINE_EXCEEDED', 'As the test says.');
    const people = { identities: identities.filter(({ name }) => name !== 'signer'), apiTokens };
    const slots = { all: [], added: [], adjusted: [] };
    next = { slots, people, keep: () => Promise.reject(tooLate) };
    expect(await reload()).toBe('DEADLINE_EXCEEDED');
    expect(fates).toEqual(['retired main', 'disposed']);
    await main.behind(async () => undefined); // it is not open any more
    const { tokens } = (await lab.ask('admin', 'list-tokens', {})).output;
    expect(tokens).toMatchObject([{ identity: 'signer', state: 'revoked' }]);

    next = { slots, people };
    expect(await reload()).toBe('none');
    expect(fates.slice(-2)).toEqual(['kept', 'disposed']);
  });

  it('whose device is away is there all the same, as failed', async () => {
    await start();
    const late = opened.use(await Device.make('late'));
    late.onOpen = failing(new KeyslotError('TOKEN_UNAVAILABLE', 'As the test says.'));
    next = { slots: beside(settingOf(late)) };
    expect(await reload()).toBe('none');
    expect(await lab.state('late')).toBe('failed');
  });

  it('that is adjusted stays open, and asks for a PIN session from then on', async () => {
    const main = await start();
    const { slot: _slot, ...terms } = settingOf(main);
    const adjusted = [{ id: slotId('main'), terms: { ...terms, access: 'session' as const } }];
    next = { slots: { all: [slotId('main')], added: [], adjusted } };
    expect(await reload()).toBe('none');
    expect(main.pinsHeard).toHaveLength(1);
    expect(await sign()).toBe('SESSION_REQUIRED');
  });
});

it('ends the PIN sessions of who is known by something else, also when it is taken back', async () => {
  await start();
  const session = await lab.session('signer');
  const closing = () => refusal(lab.ask('signer', 'close-session', {}, { session }));
  next = { people: { identities: rekeyed } };
  expect(await reload()).toBe('none');
  expect(await closing()).toBe('CREDENTIAL_UNKNOWN');
  next = {};
  expect(await reload()).toBe('none');
  expect(await closing()).toBe('SESSION_EXPIRED');
});

describe('a signature that is being made', () => {
  it.each([
    ['whose caller is gone', 'CREDENTIAL_UNKNOWN', () => ({ people: { identities: without('signer') } })],
    [
      'whose caller is known by something else',
      'CREDENTIAL_UNKNOWN',
      () => ({ people: { identities: rekeyed } }),
    ],
    ['whose caller has other roles', 'KEY_UNKNOWN', () => ({ people: { identities: demoted } })],
    ['whose caller has no grants any more', 'KEY_UNKNOWN', () => ({ people: { identities: bare } })],
  ])('and %s is not given out: %s', async (_what, code, configuration) => {
    const main = await start();
    const gate = new Gate();
    main.onSign = async ({ honest }) => {
      await gate.pass();
      return honest();
    };
    const signing = sign();
    await gate.reached;
    next = configuration();
    const reloading = reload();
    await until(() => fates.includes('kept'));
    gate.open();
    expect(await reloading).toBe('none');
    expect(await signing).toBe(code);
  });

  it('in a slot that is gone by then fails alone: what was made before is given out', async () => {
    const main = await start();
    const gate = new Gate();
    main.onSign = async ({ message, honest }) => {
      if (Buffer.from(message).toString() === 'last') await gate.pass();
      return honest();
    };
    const bytes = ['first', 'second', 'last'].map(text);
    const items = bytes.map(() => 'message' as const);
    const signing = lab.ask('signer', 'sign-batch', { key: 'wallet', items }, { bytes });
    await gate.reached;
    next = { slots: { all: [], added: [], adjusted: [] } };
    const reloading = reload();
    await until(() => fates.includes('kept'));
    gate.open();
    expect(await reloading).toBe('none');
    const { results } = (await signing).output;
    expect(results.map(result => ('code' in result ? result.code : result.receipt.node))).toEqual([
      'lab',
      'lab',
      'SLOT_LOCKED',
    ]);
  });

  const without = (name: string) => identities.filter(each => each.name !== name);
  const bare = identities.map(each => (each.name === 'signer' ? { ...each, grants: [] } : each));
  const demoted = identities.map(each =>
    each.name === 'signer' ? { ...each, roles: ['auditor' as const] } : each,
  );
});

describe('groups', () => {
  const members = (a: number, b: number) =>
    Object.entries({ a, b }).map(([slot, weight]) => ({ slot: slotId(slot), weight }));
  const all = ['main', 'a', 'b'].map(slotId);
  const treasury = (a: number, b: number) => [{ id: 'treasury', members: members(a, b) }];

  async function startGroup(): Promise<Record<'a' | 'b', Device>> {
    const [a, b] = [opened.use(await Device.make('a')), opened.use(await Device.make('b'))];
    await start({ groups: treasury(1, 1) }, a, b);
    const seed = () => ({ bytes: [new Uint8Array(32).fill(7)] });
    for (const slot of ['a', 'b']) await lab.ask('operator', 'import-key', { key: 'shared', slot }, seed());
    return { a, b };
  }

  const circuits = async () => (await groups())[0]?.members.map(({ circuit }) => circuit);

  it('that are as they were know what they knew, and those that are not begin anew', async () => {
    const { a } = await startGroup();
    a.onSign = () => Promise.reject(new KeyslotError('TOKEN_ERROR', 'As the test says.'));
    for (let time = 0; time < 20; time += 1) expect(await sign('signer', 'shared')).toBe('none');
    expect(await circuits()).toEqual(['open', 'closed']);
    const slots = { all, added: [], adjusted: [] };
    next = { slots, groups: treasury(1, 1) };
    expect(await reload()).toBe('none');
    expect(await circuits()).toEqual(['open', 'closed']);
    next = { slots, groups: treasury(2, 1) };
    expect(await reload()).toBe('none');
    expect(await circuits()).toEqual(['closed', 'closed']);
    expect(await sign('signer', 'shared')).toBe('none');
  });

  it('and all else that follows a slot are no more after three hundred reloads than before', async () => {
    await startGroup();
    const late = opened.use(await Device.make('late'));
    const followed = followers;
    for (let time = 1; time <= 300; time += 1) {
      const added = time % 100 === 0 ? [] : time % 100 === 1 ? [settingOf(late)] : [];
      const isThere = time % 100 !== 0;
      next = {
        slots: { all: isThere ? [...all, late.slot.id] : all, added, adjusted: [] },
        groups: treasury(1 + (time % 2), 1),
      };
      expect(await reload()).toBe('none');
    }
    expect(followers).toBe(followed);
    expect(await sign('signer', 'shared')).toBe('none');
  });
});

it('without a source of configurations there is nothing to reload', async () => {
  await start({ source: undefined });
  expect(await reload()).toBe('RELOAD_REFUSED');
});

async function until(happened: () => boolean): Promise<void> {
  while (!happened()) await new Promise(done => setTimeout(done, 1));
}
