import type { IncomingMessage, ServerResponse } from 'node:http';
import type { Server } from 'node:https';
import { Socket } from 'node:net';
import type { TLSSocket } from 'node:tls';
import { hasBody } from './json-body.ts';

/**
 * Who is connected, and who has to leave. A connection that has never sent a whole request is a stranger, and of
 * strangers there are at most half a house. When the house is full, room is made by whoever costs others least: first
 * who does not take an answer, then who asks for nothing, those without a certificate before those with one, and the
 * one that has been quiet longest first. A request that is whole is answered whatever comes.
 *
 * Node's own timeouts say 408 to whoever is too slow; this does not wait for the other side to hear it.
 */
export class Guests implements Disposable {
  readonly #max: number;
  readonly #patience_ms: Readonly<Record<Standing, number>>;
  readonly #pipelined_max: number;
  readonly #check_ms: number;
  readonly #sweep: NodeJS.Timeout;
  readonly #byAddress = new Map<string, Guest>();
  readonly #bySocket = new WeakMap<Socket, Guest>();
  /** Each in the order in which they came to it. */
  readonly #standing: Readonly<Record<Standing, Set<Guest>>> = {
    stranger: new Set(),
    served: new Set(),
    taking: new Set(),
    nameless: new Set(),
    named: new Set(),
  };

  constructor(bounds: GuestBounds) {
    const { connections_max, pipelined_max, handshake_ms, request_ms, idle_ms, taking_ms, check_ms } = bounds;
    this.#max = connections_max;
    this.#pipelined_max = pipelined_max;
    this.#check_ms = check_ms;
    const resting_ms = idle_ms + request_ms + 2 * check_ms;
    this.#patience_ms = {
      stranger: handshake_ms + request_ms + 2 * check_ms,
      served: Number.POSITIVE_INFINITY, // whoever answers has bounds of its own
      taking: taking_ms,
      nameless: resting_ms,
      named: resting_ms,
    };
    this.#sweep = setInterval(() => this.#dismissSlow(), check_ms).unref();
  }

  /** Before the server listens. */
  watch(server: Server): void {
    server.on('connection', socket => socket instanceof Socket && this.#admit(socket));
    server.on('secureConnection', socket => this.#introduce(socket));
  }

  /** Every request, before it is answered. False for one too many on its connection, which has ended then. */
  begin(request: IncomingMessage, response: ServerResponse): boolean {
    const guest = this.#bySocket.get(request.socket);
    if (!guest) return true;
    const { requests } = guest;
    if (!this.#standing[guest.standing].has(guest)) return false;
    if (guest.isLeaving || requests.coming + requests.whole + requests.taking >= this.#pipelined_max) {
      withoutStacks(request.socket);
      this.#dismiss(guest);
      return false;
    }
    let progress: Progress = 'coming';
    requests.coming += 1;
    const enter = (next: Progress) => {
      requests[progress] -= 1;
      requests[next] += 1;
      progress = next;
      this.#place(guest);
    };
    if (hasBody(request)) request.once('end', () => !response.writableEnded && enter('whole'));
    else enter('whole');
    response.once('prefinish', () => enter('taking')); // all of the answer is with the socket
    response.once('close', () => enter('over'));
    return true;
  }

  /** Nobody who is here now stays; a request that is whole is answered first. */
  dismissAll(): void {
    for (const guests of Object.values(this.#standing)) {
      for (const guest of guests) {
        guest.isLeaving = true;
        if (guest.standing !== 'served' && guest.standing !== 'taking') this.#dismiss(guest);
      }
    }
  }

  /** Whoever has asked for nothing yet goes. The server knows nobody who is in the middle of a handshake. */
  dismissStrangers(): void {
    for (const guest of this.#standing.stranger) if (guest.requests.coming === 0) this.#dismiss(guest);
  }

  [Symbol.dispose](): void {
    clearInterval(this.#sweep);
  }

  #admit(socket: Socket): void {
    const guest: Guest = {
      socket,
      standing: 'stranger',
      since_ms: performance.now(),
      requests: { coming: 0, whole: 0, taking: 0, over: 0 },
      rest: 'stranger',
      isNamed: false,
      isLeaving: false,
    };
    const address = addressOf(socket);
    this.#byAddress.set(address, guest);
    this.#standing.stranger.add(guest);
    socket.once('close', () => {
      this.#standing[guest.standing].delete(guest);
      if (this.#byAddress.get(address) === guest) this.#byAddress.delete(address);
    });
    if (this.#standing.stranger.size > this.#max / 2) this.#dismissFirst(['stranger']);
    if (this.#count() > this.#max) this.#dismissFirst(['taking', 'nameless', 'named', 'stranger']);
  }

  #introduce(socket: TLSSocket): void {
    const guest = this.#byAddress.get(addressOf(socket));
    if (!guest) return;
    guest.isNamed = socket.authorized;
    this.#bySocket.set(socket, guest);
  }

  #count(): number {
    return Object.values(this.#standing).reduce((sum, { size }) => sum + size, 0);
  }

  /** By what it waits for; a request that is still on its way is nothing to wait for. */
  #place(guest: Guest): void {
    const { whole, taking } = guest.requests;
    if (whole > 0) guest.rest = guest.isNamed ? 'named' : 'nameless';
    const standing = taking > 0 ? 'taking' : whole > 0 ? 'served' : guest.rest;
    // One that has left stands nowhere, whatever is still answered to it.
    if (standing === guest.standing || !this.#standing[guest.standing].delete(guest)) return;
    guest.standing = standing;
    guest.since_ms = performance.now();
    this.#standing[standing].add(guest);
    if (guest.isLeaving && standing === guest.rest) this.#dismiss(guest);
  }

  #dismissFirst(standings: readonly Standing[]): void {
    for (const standing of standings) {
      const [first] = this.#standing[standing];
      // Every answer takes a moment to be taken.
      if (!first || (standing === 'taking' && performance.now() - first.since_ms < this.#check_ms)) continue;
      this.#dismiss(first);
      return;
    }
  }

  #dismissSlow(): void {
    const now_ms = performance.now();
    for (const [standing, guests] of Object.entries(this.#standing) as [Standing, Set<Guest>][]) {
      for (const guest of guests) {
        if (now_ms - guest.since_ms <= this.#patience_ms[standing]) break; // the others came later
        this.#dismiss(guest);
      }
    }
  }

  #dismiss(guest: Guest): void {
    this.#standing[guest.standing].delete(guest);
    guest.socket.destroy();
  }
}

export interface GuestBounds {
  readonly connections_max: number;
  /** Requests on one connection that have no answer yet. */
  readonly pipelined_max: number;
  readonly handshake_ms: number;
  /** From its first byte to its last. */
  readonly request_ms: number;
  /** Between two requests. */
  readonly idle_ms: number;
  /** Until an answer has been taken. */
  readonly taking_ms: number;
  readonly check_ms: number;
}

type Standing = 'stranger' | 'served' | 'taking' | 'nameless' | 'named';

interface Guest {
  /** Of TCP, below TLS: when it goes, both go. */
  readonly socket: Socket;
  standing: Standing;
  since_ms: number;
  /** How many of its requests are how far. */
  readonly requests: Record<Progress, number>;
  /** What it is while it waits for nothing. */
  rest: Standing;
  isNamed: boolean;
  /** Asks for nothing more. */
  isLeaving: boolean;
}

type Progress = 'coming' | 'whole' | 'taking' | 'over';

// What TLS makes of a connection says nothing of the one below it but this.
const addressOf = ({ remoteAddress, remotePort }: Socket): string => `${remoteAddress} ${remotePort}`;

/**
 * When a connection ends, Node makes an error for each request of it that has no answer. Of a thousand in one write,
 * which have all been parsed by then, the stacks would cost more than everything else.
 */
function withoutStacks(socket: Socket): void {
  let { stackTraceLimit } = Error;
  socket.prependOnceListener('close', () => {
    ({ stackTraceLimit } = Error);
    Error.stackTraceLimit = 0;
  });
  socket.once('close', () => {
    Error.stackTraceLimit = stackTraceLimit;
  });
}
