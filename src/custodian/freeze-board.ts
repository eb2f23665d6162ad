import { readFile } from 'node:fs/promises';
import { KeyslotError } from '../foundation/errors.ts';
import type { Log } from '../foundation/log.ts';
import type { Freeze, Freezes } from '../store/freezes.ts';

/**
 * The switches that stop signing: of the appliance, of a slot, of a key. Whoever may use the API turns one on at
 * once; a file in the state folder does the same for whoever has nothing but a shell. Only an admin turns one off,
 * and taking the file away does not.
 */
export class FreezeBoard implements Disposable {
  readonly #rows: Freezes;
  readonly #active = new Map<string, Freeze>();
  readonly #options: FreezeOptions;
  #poll: NodeJS.Timeout | undefined;
  /** What stood in the file when it was last looked at. */
  #inFile: readonly string[] = [];

  private constructor(rows: Freezes, options: FreezeOptions) {
    this.#rows = rows;
    this.#options = options;
  }

  /** Knows what was frozen before, and what the file says, before anything can be signed. */
  static async open(rows: Freezes, options: FreezeOptions): Promise<FreezeBoard> {
    const board = new FreezeBoard(rows, options);
    for (const freeze of await rows.all()) board.#active.set(freeze.id, freeze);
    if (options.file === undefined) return board;
    await board.#look(options.file);
    const { file } = options;
    board.#poll = setInterval(() => void board.#look(file), poll_ms).unref();
    return board;
  }

  /** FROZEN, naming what is frozen and why. Costs nothing while nothing is. */
  refuse(key: string, slot: string): void {
    if (this.#active.size === 0) return;
    const freeze =
      this.#active.get('appliance') ?? this.#active.get(`slot/${slot}`) ?? this.#active.get(`key/${key}`);
    if (!freeze) return;
    const what = freeze.scope === 'appliance' ? 'The appliance' : `The ${freeze.scope} ${freeze.target}`;
    throw new KeyslotError(
      'FROZEN',
      `${what} was frozen by ${freeze.by} at ${freeze.since}: "${freeze.reason}".`,
    );
  }

  all(): readonly Freeze[] {
    return [...this.#active.values()];
  }

  /** Holds from now on, even when it cannot be written down; then it says so with STORE_FAILED. */
  async freeze(freeze: Omit<Freeze, 'id' | 'since'>): Promise<Freeze> {
    const id = freeze.scope === 'appliance' ? 'appliance' : `${freeze.scope}/${freeze.target}`;
    const known = this.#active.get(id);
    if (known) return known;
    const whole = { ...freeze, id, since: this.#options.now().toISOString() };
    this.#active.set(id, whole);
    await this.#rows.put(whole);
    return whole;
  }

  /** FREEZE_UNKNOWN; FROZEN while the file still says so. */
  async thaw(id: string): Promise<Freeze> {
    const freeze = this.#active.get(id);
    if (!freeze)
      throw new KeyslotError('FREEZE_UNKNOWN', `Nothing of the name ${id.slice(0, 80)} is frozen.`);
    if (this.#options.file !== undefined) await this.#look(this.#options.file);
    if (this.#inFile.includes(id)) {
      throw new KeyslotError('FROZEN', `The file ${this.#options.file} freezes ${id}: remove it first.`);
    }
    await this.#rows.remove(id);
    this.#active.delete(id);
    return freeze;
  }

  [Symbol.dispose](): void {
    clearInterval(this.#poll);
  }

  /** An empty file freezes the appliance; otherwise each line names a `slot/<id>`, a `key/<id>` or `appliance`. */
  async #look(file: string): Promise<void> {
    const ids = await frozenIn(file);
    const added = ids.filter(id => !this.#inFile.includes(id) && !this.#active.has(id));
    this.#inFile = ids;
    for (const id of added) {
      const frozen = frozenThing(id);
      try {
        const freeze = await this.freeze({ ...frozen, reason: `the file ${file} is there`, by: 'file' });
        this.#options.log.warn({ freeze: freeze.id, file }, 'signing was frozen by a file');
        await this.#options.frozenByFile(freeze);
      } catch (thrown) {
        this.#options.log.error(
          { freeze: id, err: thrown },
          'a freeze by a file holds and could not be written down',
        );
      }
    }
  }
}

export interface FreezeOptions {
  /** The file that freezes by being there. */
  readonly file?: string | undefined;
  readonly now: () => Date;
  readonly log: Log;
  /** Told of what a file froze, for the audit log. */
  readonly frozenByFile: (freeze: Freeze) => Promise<unknown>;
}

function frozenThing(id: string): Pick<Freeze, 'scope' | 'target'> {
  const [scope, target = ''] = id.split('/');
  return scope === 'slot' || scope === 'key' ? { scope, target } : { scope: 'appliance' };
}

/** A file that is there and cannot be read freezes everything: whoever put it there meant something. */
async function frozenIn(file: string): Promise<readonly string[]> {
  let text: string;
  try {
    text = await readFile(file, 'utf8');
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === 'ENOENT' ? [] : ['appliance'];
  }
  const lines = text
    .slice(0, 64 * 1024)
    .split('\n')
    .map(line => line.trim())
    .filter(line => line !== '');
  if (lines.length === 0) return ['appliance'];
  return lines.map(line => (/^(slot|key)\/[a-z0-9][a-z0-9-]{0,62}$/.test(line) ? line : 'appliance'));
}

const poll_ms = 500;
