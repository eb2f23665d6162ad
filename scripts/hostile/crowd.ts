import { connect as connectTcp, type Socket } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import { connect } from 'node:tls';
import type { Attack } from './attacks.ts';

export interface Target {
  /** On 127.0.0.1, and nowhere else. */
  readonly url: string;
  readonly ca: string;
}

/** What came of an attack. */
export interface Tally {
  readonly opened: number;
  readonly sent_bytes: number;
  /** How often connections ended how: with a status, `closed` without one, or `left` by the attacker itself. */
  readonly ends: Readonly<Record<string, number>>;
  /** From the first byte to the close by the appliance; of those that it closed. */
  readonly kept_s: { readonly least: number; readonly most: number };
  /** Connections that it had not closed when it was waited for long enough. */
  readonly left: number;
}

/** Many connections that all do the same. Whatever is still open when it is disposed of is closed. */
export class Crowd implements Disposable {
  readonly #attack: Attack;
  readonly #target: Target;
  readonly #members = new Set<Member>();
  readonly #ends: Record<string, number> = {};
  #drip: NodeJS.Timeout | undefined;
  #opened = 0;
  #sent_bytes = 0;
  #least_s = Number.POSITIVE_INFINITY;
  #most_s = 0;

  constructor(attack: Attack, target: Target) {
    if (new URL(target.url).hostname !== '127.0.0.1') throw new Error('Attacks go to 127.0.0.1 only.');
    this.#attack = attack;
    this.#target = target;
    const { drip } = attack;
    if (drip) this.#drip = setInterval(() => this.#sendAll(drip.bytes), drip.every_ms);
  }

  /** How many are open now. */
  get size(): number {
    return this.#members.size;
  }

  /** As many at a time as the attack wants, for so long. */
  async during(seconds: number, from_ms = performance.now()): Promise<void> {
    const { connections, opensPerSecond, again } = this.#attack;
    const most = again ? Number.POSITIVE_INFINITY : connections;
    for (let due = 0; performance.now() < from_ms + seconds * 1_000; await sleep(tick_ms)) {
      const elapsed_s = (performance.now() - from_ms) / 1_000;
      for (; due < elapsed_s * opensPerSecond; due += 1) {
        if (this.#members.size < connections && this.#opened < most) this.#open();
      }
    }
  }

  /** Opens no more, and waits until the appliance has closed what is open, as far as it does in its time. */
  async settled(patience_s = this.#attack.kept_s_max): Promise<void> {
    if (this.#attack.deaf) await sleep(patience_s * 1_000); // who reads nothing does not hear of the end
    for (const { socket } of this.#members) socket.resume();
    const patience_ms = this.#attack.deaf ? drained_ms : patience_s * 1_000;
    for (const until_ms = performance.now() + patience_ms; this.#members.size > 0; await sleep(tick_ms)) {
      if (performance.now() > until_ms) return;
    }
  }

  tally(): Tally {
    return {
      opened: this.#opened,
      sent_bytes: this.#sent_bytes,
      ends: this.#ends,
      kept_s: { least: this.#least_s, most: this.#most_s },
      left: this.#members.size,
    };
  }

  [Symbol.dispose](): void {
    clearInterval(this.#drip);
    for (const { socket } of this.#members) socket.destroy();
  }

  #open(): void {
    const { layer, opening, deaf, leaves } = this.#attack;
    const { url, ca } = this.#target;
    const at = { host: '127.0.0.1', port: Number(new URL(url).port) };
    const begin = () => {
      member.hasBegun = true;
      this.#send(member, opening[turn % opening.length] ?? Buffer.of());
      if (leaves) {
        member.end = 'left';
        member.socket.destroy();
      }
    };
    const turn = this.#opened;
    this.#opened += 1;
    const socket = layer === 'tcp' ? connectTcp(at, begin) : connect({ ...at, ca }, begin);
    const member: Member = { socket, opened_ms: performance.now(), hasBegun: false, end: undefined };
    this.#members.add(member);
    if (!deaf) {
      socket.on('data', chunk => {
        member.end ??= /^HTTP\/1\.1 (\d{3})/.exec(chunk.toString('latin1', 0, 16))?.[1];
      });
    }
    socket.on('error', () => undefined); // a reset is an end like another
    socket.once('close', () => this.#ended(member));
  }

  #ended(member: Member): void {
    this.#members.delete(member);
    const end = member.end ?? 'closed';
    this.#ends[end] = (this.#ends[end] ?? 0) + 1;
    if (end === 'left' || this.#attack.deaf) return;
    const kept_s = (performance.now() - member.opened_ms) / 1_000;
    this.#least_s = Math.min(this.#least_s, kept_s);
    this.#most_s = Math.max(this.#most_s, kept_s);
  }

  #sendAll(bytes: Buffer): void {
    for (const member of this.#members) if (member.hasBegun) this.#send(member, bytes);
  }

  #send({ socket }: Member, bytes: Buffer): void {
    if (bytes.length === 0 || !socket.writable) return;
    socket.write(bytes);
    this.#sent_bytes += bytes.length;
  }
}

interface Member {
  readonly socket: Socket;
  readonly opened_ms: number;
  hasBegun: boolean;
  /** The status of the first answer, if there was one. */
  end: string | undefined;
}

const tick_ms = 10;
const drained_ms = 5_000;
