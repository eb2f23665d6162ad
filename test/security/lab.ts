import type { AuditRecord } from '../../src/audit/record.ts';
import type { Clock } from '../../src/foundation/clock.ts';
import { everythingAllowed } from '../../src/policy/permissive.ts';
import type { AccessMode } from '../../src/wire/views.ts';
import { Device, pinText } from '../custodian/device.ts';
import { Lab, type LabSettings, type Rest, type Who } from '../custodian/lab.ts';

/** What an attacker meets: a custodian with one open slot and a key, over a device that counts what it is asked. */
export class World implements AsyncDisposable {
  readonly device: Device;
  readonly lab: Lab;

  private constructor(device: Device, lab: Lab) {
    this.device = device;
    this.lab = lab;
  }

  static async open(settings: LabSettings = {}, access: AccessMode = 'identity'): Promise<World> {
    const device = await Device.make();
    const lab = await Lab.with(settings, { slot: device.slot, access, source: () => pinText });
    const world = new World(device, lab);
    await world.unlock();
    await lab.ask('operator', 'import-key', { key: 'wallet', slot: 'main' }, { bytes: [seed()] });
    return world;
  }

  /** How many signatures the device was asked for. */
  get signerCalls(): number {
    return this.device.asked.length;
  }

  signMessage(message: Uint8Array, rest: Rest = {}, who: Who = 'signer') {
    return this.lab.ask(who, 'sign-message', { key: 'wallet' }, { ...rest, bytes: [message] });
  }

  signTransaction(wire: Uint8Array, rest: Rest = {}, who: Who = 'signer') {
    return this.lab.ask(who, 'sign-transaction', { key: 'wallet' }, { ...rest, bytes: [wire] });
  }

  /** Another custodian over the same store, log and device. */
  async restart(): Promise<void> {
    await this.lab.restart();
    await this.unlock();
  }

  async unlock(): Promise<void> {
    const [failure] = await this.lab.custodian.openUnattended();
    if (failure) throw failure;
  }

  async records(): Promise<readonly AuditRecord[]> {
    const { audit } = this.lab.custodian;
    return (await audit.read(0, audit.status().size)).map(({ record }) => record);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.lab[Symbol.asyncDispose]();
    await this.device[Symbol.asyncDispose]();
  }
}

/** The seed of `wallet`; of one's own each time, since importing wipes it. */
export const seed = (): Uint8Array => new Uint8Array(32).fill(1);

/** A machine whose wall clock anybody may set, while time itself goes on. */
export class SetClock implements Clock {
  #monotonic_ms = 1_000_000;
  #wall_ms: number;

  constructor(start = '2026-03-04T10:00:00Z') {
    this.#wall_ms = Date.parse(start) - this.#monotonic_ms;
  }

  monotonic_ms(): number {
    return this.#monotonic_ms;
  }

  utc(): Date {
    return new Date(this.#wall_ms + this.#monotonic_ms);
  }

  /** Time goes by. */
  advance(by_ms: number): void {
    this.#monotonic_ms += by_ms;
  }

  /** Somebody sets the clock. */
  step(by_ms: number): void {
    this.#wall_ms += by_ms;
  }
}

export const day_ms = 86_400_000;

/** Lets everything through, so many times. */
export const atMost = (max: number) => ({
  ...everythingAllowed('counted', 'all'),
  rate: [{ id: 'hourly', max, window: '1h', per: 'key' }],
});
