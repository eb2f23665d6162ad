import { connect, createServer, type Server, type Socket } from 'node:net';

/** A wire between link and server that a test can cut, as the death of a process does, and plug in elsewhere. */
export class Relay implements AsyncDisposable {
  readonly path: string;
  /** The socket file that new connections are passed on to. */
  target: string;
  readonly #server: Server;
  readonly #sockets = new Set<Socket>();

  private constructor(path: string, target: string) {
    this.path = path;
    this.target = target;
    this.#server = createServer(near => {
      const far = connect(this.target);
      for (const [one, other] of [
        [near, far],
        [far, near],
      ] as const) {
        this.#sockets.add(one);
        one.on('error', () => other.destroy());
        one.on('close', () => {
          this.#sockets.delete(one);
          other.destroy();
        });
      }
      near.pipe(far);
      far.pipe(near);
    });
  }

  static async start(path: string, target: string): Promise<Relay> {
    const relay = new Relay(path, target);
    await new Promise<void>(resolve => relay.#server.listen(path, resolve));
    return relay;
  }

  cut(): void {
    for (const socket of this.#sockets) socket.destroy();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.cut();
    await new Promise(resolve => this.#server.close(resolve));
  }
}
