import { statfs } from 'node:fs/promises';
import { dirname } from 'node:path';
import type { Clock } from '../foundation/clock.ts';
import { isKeyslotError } from '../foundation/errors.ts';

/** What the custodian stands on: its store, its disks, and the clock of the machine. */
export class Surroundings {
  readonly #world: SurroundingsWorld;
  readonly #stateFolder: string;

  /** STORE_FAILED. */
  constructor(world: SurroundingsWorld) {
    this.#world = world;
    this.#stateFolder = dirname(world.store.size.file);
  }

  /** Nothing when the store cannot be read. */
  store_bytes(): number | undefined {
    try {
      return this.#world.store.size.bytes;
    } catch (thrown) {
      if (isKeyslotError(thrown)) return undefined;
      throw thrown;
    }
  }

  /** A place that cannot be looked at is left out. */
  async disks(): Promise<readonly Disk[]> {
    const places = { state: this.#stateFolder, audit: this.#world.auditFolder };
    const found = await Promise.all(
      Object.entries(places).map(async ([place, path]) => {
        const disk = await statfs(path).catch(() => undefined);
        if (!disk) return [];
        const { bsize, bavail, blocks } = disk;
        return [{ place, free_bytes: bavail * bsize, size_bytes: blocks * bsize }];
      }),
    );
    return found.flat();
  }

  /** Positive when the clock of the machine is ahead of the one that limits go by. */
  clockOffset_ms(): number {
    const { clock, machineClock } = this.#world;
    return machineClock.utc().getTime() - clock.utc().getTime();
  }
}

export interface Disk {
  readonly place: string;
  readonly free_bytes: number;
  readonly size_bytes: number;
}

export interface SurroundingsWorld {
  readonly store: { readonly size: { readonly file: string; readonly bytes: number } };
  readonly auditFolder: string;
  readonly clock: Clock;
  readonly machineClock: Clock;
}
