import { createHash } from 'node:crypto';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { AdoptionSource } from '../../src/custodian/adoption.ts';
import { type CustodianOptions, LocalCustodian } from '../../src/custodian/custodian.ts';
import { grantsOf, type Role } from '../../src/custodian/grants.ts';
import type { Identity } from '../../src/custodian/identities.ts';
import type { SlotSetting } from '../../src/custodian/slot-keeper.ts';
import type { Slot } from '../../src/custody/engine.ts';
import { slotId } from '../../src/custody/ids.ts';
import type { Clock } from '../../src/foundation/clock.ts';
import { isKeyslotError } from '../../src/foundation/errors.ts';
import { silentLog } from '../../src/foundation/log.ts';
import { Secret } from '../../src/foundation/secret.ts';
import { everythingAllowed } from '../../src/policy/permissive.ts';
import { Store } from '../../src/store/store.ts';
import type { Credential, Custodian, OperationName, Reply, Request } from '../../src/wire/custodian.ts';
import type { AccessMode } from '../../src/wire/views.ts';
import { pinText } from './device.ts';

/** Time that stands still until the test moves it. */
export class HeldClock implements Clock {
  #now_ms = 1_000_000;

  monotonic_ms(): number {
    return this.#now_ms;
  }

  utc(): Date {
    return new Date(Date.UTC(2026, 0, 1) + this.#now_ms);
  }

  advance(by_ms: number): void {
    this.#now_ms += by_ms;
  }
}

export const sha256 = (bytes: string | Uint8Array): string =>
  createHash('sha256').update(bytes).digest('hex');

const identity = (
  name: string,
  roles: readonly Role[],
  slots: '*' | readonly string[],
): Identity & { credential: Credential } => {
  const credential = { token: sha256(`token of ${name}`) };
  return {
    name,
    roles,
    grants: grantsOf(slots),
    source: 'configuration',
    recognisedBy: credential,
    credential,
  };
};

/** What the identity `robot` logs in with. */
export const robot = { roleId: 'role-of-robot', secretId: 'secret-id-of-robot' } as const;

/** Everybody whom the configuration of a lab names. */
export const people = {
  operator: identity('operator', ['operator'], '*'),
  signer: identity('signer', ['signer'], '*'),
  both: identity('both', ['operator', 'signer'], '*'),
  admin: identity('admin', ['admin'], '*'),
  auditor: identity('auditor', ['auditor'], []),
  approver: identity('approver', ['approver'], '*'),
  secondApprover: identity('secondApprover', ['approver'], '*'),
  metrics: identity('metrics', ['metrics'], '*'),
  backup: identity('backup', ['backup'], '*'),
  roleless: identity('roleless', [], '*'),
  neighbour: identity('neighbour', ['operator', 'signer'], '*'),
  /** Every role, and no slot. */
  ungranted: identity('ungranted', ['operator', 'signer'], []),
  /** Every role, and the slot `main` alone. */
  mainOnly: identity('mainOnly', ['operator', 'signer'], [slotId('main')]),
  /** Has no credential before it has logged in. */
  robot: {
    name: 'robot',
    roles: ['signer'],
    grants: grantsOf('*'),
    source: 'configuration',
    appRole: { roleId: robot.roleId, secretId: sha256(robot.secretId) },
  } satisfies Identity as Identity,
} as const;

export type Who = keyof typeof people;

export interface LabSlot {
  readonly slot: Slot;
  readonly access?: AccessMode;
  /** The text of the configured source; absent for an attended slot. */
  readonly source?: () => string | Promise<string>;
  /** Wallets are made in the first slot, and taken in there. */
  readonly adoption?: AdoptionSource;
}

export const idle_ms = 60_000;
export const absolute_ms = 600_000;

/** A custodian over a real store in a folder of its own, and people who ask it. */
export class Lab implements AsyncDisposable {
  readonly clock = new HeldClock();
  readonly folder = mkdtempSync(join(tmpdir(), 'keyslot-lab-'));
  readonly storeFile = join(this.folder, 'keyslot.db');
  readonly auditFolder = join(this.folder, 'audit');
  /** What the next custodian of the lab is given besides; a test changes it and restarts. */
  settings: LabSettings = {};
  #slots: readonly LabSlot[];
  #running: { store: Store; custodian: LocalCustodian } | undefined;

  private constructor(slots: readonly LabSlot[]) {
    this.#slots = slots;
  }

  static async start(...slots: readonly LabSlot[]): Promise<Lab> {
    return Lab.with({}, ...slots);
  }

  static async with(settings: LabSettings, ...slots: readonly LabSlot[]): Promise<Lab> {
    const lab = new Lab(slots);
    lab.settings = settings;
    await lab.#start();
    return lab;
  }

  /** One unattended slot, open. */
  static async open(slot: LabSlot): Promise<Lab> {
    const lab = await Lab.start({ source: () => pinText, ...slot });
    const [failure] = await lab.custodian.openUnattended();
    if (failure) throw failure;
    return lab;
  }

  get custodian(): LocalCustodian {
    if (!this.#running) throw new TypeError('The lab is closed.');
    return this.#running.custodian;
  }

  get store(): Store {
    if (!this.#running) throw new TypeError('The lab is closed.');
    return this.#running.store;
  }

  /** Another custodian over the same store, with other settings where they are given. */
  async restart(...slots: readonly LabSlot[]): Promise<void> {
    await this.#stop();
    if (slots.length > 0) this.#slots = slots;
    await this.#start();
  }

  ask<N extends OperationName>(
    who: Who | 'nobody',
    operation: N,
    input: Request<N>['input'],
    rest: Rest = {},
  ): Promise<Reply<N>> {
    return askOf(this.custodian, who, operation, input, rest);
  }

  /** The token of a new session. */
  async session(who: Who, slot = 'main', pin = pinText): Promise<string> {
    const { bytes } = await this.ask(who, 'open-session', { slot }, { bytes: [text(pin)] });
    return Buffer.from(bytes?.[0] ?? []).toString('latin1');
  }

  async state(slot = 'main'): Promise<string> {
    return (await this.ask('operator', 'show-slot', { slot })).output.state;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#stop();
    rmSync(this.folder, { recursive: true, force: true });
  }

  async #start(): Promise<void> {
    const store = new Store(this.storeFile);
    const [first] = this.#slots;
    const custodian = await LocalCustodian.create({
      store,
      slots: this.#slots.map(slotSetting),
      identities: Object.values(people),
      sessions: { idle_ms, absolute_ms },
      wallets: first && { slot: first.slot.id, adoption: first.adoption },
      log: silentLog,
      clock: this.clock,
      policies: { documents: [everythingAllowed('everything', 'all')] },
      ...this.settings,
      audit: { ...auditOf(this.auditFolder), ...this.settings.audit },
    });
    this.#running = { store, custodian };
  }

  async #stop(): Promise<void> {
    const running = this.#running;
    this.#running = undefined;
    await running?.custodian[Symbol.asyncDispose]();
    running?.store[Symbol.dispose]();
  }
}

export type LabSettings = Partial<Omit<CustodianOptions, 'audit'>> & {
  readonly audit?: Partial<CustodianOptions['audit']>;
};

/** A log as any test may have one, with small segments. */
export const auditOf = (folder: string): CustodianOptions['audit'] => ({
  folder,
  node: 'lab',
  segment_records: 1_024,
  checkpoint: { every_ms: 60_000, records: 1_000 },
  witnesses: [],
});

export interface Rest {
  readonly bytes?: readonly Uint8Array[];
  /** The token of a session, as a caller holds it. */
  readonly session?: string;
  readonly signal?: AbortSignal;
  readonly requestId?: string;
  /** What its caller chose, so that a repeat is known. */
  readonly named?: boolean;
  readonly idempotencyKey?: string;
  readonly approval?: string;
}

/** Asks through whichever binding. */
export function askOf<N extends OperationName>(
  custodian: Custodian,
  who: Who | 'nobody',
  operation: N,
  input: Request<N>['input'],
  { bytes, session, signal, requestId = 'lab', named, idempotencyKey, approval }: Rest = {},
): Promise<Reply<N>> {
  const person: (Identity & { credential?: Credential }) | undefined =
    who === 'nobody' ? undefined : people[who];
  const credential = person?.credential;
  const request: Request<N> = bytes ? { input, bytes } : { input };
  return custodian.call(operation, request, {
    requestId,
    requestIdGiven: named,
    idempotencyKey,
    approval,
    credential,
    session: session === undefined ? undefined : sha256(session),
    signal,
  });
}

function slotSetting({ slot, access = 'identity', source }: LabSlot): SlotSetting {
  return { slot, access, ...(source ? { readPin: async () => Secret.fromText(await source()) } : {}) };
}

/** Bytes of one's own each time: the custodian wipes the PINs and seeds that it is given. */
export const text = (of: string): Uint8Array => Uint8Array.from(Buffer.from(of));

/** The code that something is refused with; `'none'` when it was not. */
export async function refusal(attempt: Promise<unknown>): Promise<string> {
  try {
    await attempt;
    return 'none';
  } catch (thrown) {
    if (isKeyslotError(thrown)) return thrown.code;
    throw thrown;
  }
}
