import { join } from 'node:path';
import type { Command } from 'commander';
import { KeyslotError, toKeyslotError } from '../../foundation/errors.ts';
import type { ApprovalView } from '../../wire/policies.ts';
import type { MigrationKeyView, MigrationPlanView, MigrationView } from '../../wire/views.ts';
import { Connection, configOf, type SharedOptions } from '../connection.ts';
import { listing, misused, print, printJson, refused, table } from '../output.ts';
import { Interruption, ProgressBar } from './migration-progress.ts';
import { claimReport, type MigrationReport } from './migration-report.ts';

type RouteOptions = SharedOptions & { from: string; to: string; key?: string[] };
type RunOptions = SharedOptions &
  Partial<RouteOptions> & { report?: string; confirmDestroy?: boolean; approval?: string };
type SomeOptions = SharedOptions & { key?: string[]; confirmDestroy?: boolean; approval?: string };

export function addMigrate(program: Command, shared: (command: Command) => Command): void {
  const migrate = program.command('migrate').description('move keys to another slot; ids and addresses stay');
  const withKeys = (command: Command) =>
    command.option('--key <key>', 'only this key; may be repeated', (key, keys: string[] = []) => [
      ...keys,
      key,
    ]);
  withKeys(shared(migrate.command('plan').description('say what is possible, and change nothing')))
    .requiredOption('--from <slot>', 'where the keys are')
    .requiredOption('--to <slot>', 'where they are to go')
    .action(plan);
  withKeys(shared(migrate.command('run').description('move keys, or go on with a migration')))
    .argument('[migration]', 'a migration that was stopped, or whose copies are to be destroyed')
    .option('--from <slot>', 'where the keys are')
    .option('--to <slot>', 'where they are to go')
    .option('--report <file>', 'where the report goes (default: migration-<id>.json in the state folder)')
    .option('--confirm-destroy', 'destroy the copies at the source once the keys have proved themselves')
    .option('--approval <id>', approvalText)
    .action(run);
  withKeys(shared(migrate.command('verify').description('have every moved key prove itself again')))
    .argument('<migration>')
    .action(verify);
  withKeys(shared(migrate.command('rollback').description('back to the source, while it has its copy')))
    .argument('<migration>')
    .option('--confirm-destroy', 'destroy the copies at the target that are left over')
    .option('--approval <id>', approvalText)
    .action(rollback);
  shared(migrate.command('status').description('the migrations, or one of them in full'))
    .argument('[migration]')
    .action(status);
}

const approvalText = 'with --confirm-destroy: the approval of others, where the configuration asks for one';

async function plan({ from, to, key: keys, ...options }: RouteOptions): Promise<void> {
  const connection = new Connection(configOf(options));
  const made = await connection.post<MigrationPlanView>('/v1/migrations/plan', { from, to, keys });
  if (options.json) printJson(made);
  else printPlan(made);
  if (made.possible === 0 || made.impossible > 0) process.exitCode = refused;
}

async function run(id: string | undefined, options: RunOptions, command: Command): Promise<void> {
  const { from, to, key: keys } = options;
  if ((id === undefined) !== (from !== undefined && to !== undefined) || (id !== undefined && (from ?? to))) {
    command.error('Give either a migration, or --from and --to.', { exitCode: misused });
  }
  const config = configOf(options);
  const connection = new Connection(config);
  using interruption = new Interruption();
  const started =
    id === undefined
      ? await connection.post<Started>('/v1/migrations', { from, to, keys })
      : { ...(await connection.get<Did>(pathOf(id))).migration, leftOut: [] };
  // The file is claimed before a key is moved: what was done must not be lost for want of a place to write it.
  using report = claimReport(options.report ?? join(config.home, `migration-${started.id}.json`));
  const walk = new Walk(connection, started, { ...options, interruption });
  const named = id === undefined ? undefined : keys;
  try {
    await walk.through('run', named);
    if (options.confirmDestroy) await walk.destroy(['switched', 'kept'], named, options.approval);
  } catch (thrown) {
    throw resumable(toKeyslotError(thrown), started.id);
  }
  const written = report.write(await reportOf(connection, started));
  conclude(walk, options, { report: written, interrupted: interruption.asked, leftOut: started.leftOut });
}

async function verify(id: string, options: SomeOptions): Promise<void> {
  const connection = new Connection(configOf(options));
  const { migration } = await connection.get<Did>(pathOf(id));
  using interruption = new Interruption();
  const walk = new Walk(connection, migration, { ...options, interruption });
  await walk.through('verify', options.key);
  conclude(walk, options, { interrupted: interruption.asked });
}

async function rollback(id: string, options: SomeOptions): Promise<void> {
  const connection = new Connection(configOf(options));
  const { migration } = await connection.get<Did>(pathOf(id));
  using interruption = new Interruption();
  const walk = new Walk(connection, migration, { ...options, interruption });
  const returned = await walk.keysAt(['rolled-back'], options.key);
  const others = await walk.keysAt(stepsOf.rollback, options.key);
  // Said again with --confirm-destroy: what was rolled back before is not rolled back once more.
  const again = options.confirmDestroy && returned.length > 0 && others.length === 0;
  if (!again) await walk.through('rollback', options.key);
  if (options.confirmDestroy) await walk.destroy(['rolled-back'], options.key, options.approval);
  conclude(walk, options, { interrupted: interruption.asked });
}

async function status(id: string | undefined, options: SharedOptions): Promise<void> {
  const connection = new Connection(configOf(options));
  if (id !== undefined) return printMigration(await reportOf(connection, { id }), options);
  const answer = await connection.get<{ migrations: MigrationView[] }>('/v1/migrations');
  if (options.json) return printJson(answer);
  const rows = answer.migrations.map(each => [
    each.id,
    each.from,
    each.to,
    each.createdAt,
    each.state,
    countsOf(each),
  ]);
  print(table(['MIGRATION', 'FROM', 'TO', 'BEGUN', 'STATE', 'KEYS'], rows));
}

/** Asks for part after part, each no longer than one request may take, until every key has had its turn. */
class Walk {
  readonly #connection: Connection;
  readonly #options: { json?: boolean; interruption: Interruption };
  readonly #results = new Map<string, MigrationKeyView>();
  migration: MigrationView;

  constructor(
    connection: Connection,
    migration: MigrationView,
    options: { json?: boolean; interruption: Interruption },
  ) {
    this.#connection = connection;
    this.#options = options;
    this.migration = migration;
  }

  async through(verb: Verb, keys: readonly string[] | undefined): Promise<void> {
    const all = keys?.length ?? sum(this.migration, stepsOf[verb]);
    using bar = new ProgressBar(labels[verb], this.#options.json !== true);
    let done = 0;
    for (const part of partsOf(keys)) {
      let after: string | undefined;
      do {
        if (this.#options.interruption.asked) return;
        const answer = await this.#ask(verb, { keys: part, after });
        done += answer.keys.length;
        bar.show(done, all);
        after = answer.next;
      } while (after !== undefined);
    }
  }

  /**
   * Only copies of keys that stand at these steps, so that nothing else of the migration is touched. An approval is
   * of one request exactly, so with one just that request is made.
   */
  async destroy(
    steps: readonly Step[],
    only: readonly string[] | undefined,
    approval: string | undefined,
  ): Promise<void> {
    if (this.#options.interruption.asked) return;
    if (approval !== undefined) return this.#destroyApproved(approval);
    const keys = await this.keysAt(steps, only);
    try {
      if (keys.length > 0) await this.through('destroy-copies', keys);
    } catch (thrown) {
      throw requestable(toKeyslotError(thrown), this.migration.id, keys);
    }
  }

  async #destroyApproved(approval: string): Promise<void> {
    const { operation, input } = await this.#connection.get<ApprovalView>(
      `/v1/approvals/${encodeURIComponent(approval)}`,
    );
    const { migration, ...some } = input;
    if (operation !== 'destroy-copies' || migration !== this.migration.id) {
      throw new KeyslotError(
        'APPROVAL_UNUSABLE',
        `The approval ${approval} is not of destroying copies of this migration.`,
      );
    }
    const path = `${pathOf(this.migration.id)}/destroy-copies`;
    this.#keep(await this.#connection.post<Did>(path, { ...some, confirm: true }, { approval }));
  }

  async keysAt(steps: readonly Step[], only: readonly string[] | undefined): Promise<string[]> {
    const keys = await everyKey(this.#connection, this.migration.id);
    return keys
      .filter(({ key, step }) => steps.includes(step) && (only?.includes(key) ?? true))
      .map(({ key }) => key);
  }

  /** Every key that was worked on, as it was left; its failure is the one of this run. */
  results(): MigrationKeyView[] {
    return [...this.#results.values()];
  }

  async #ask(verb: Verb, some: { keys: readonly string[] | undefined; after: string | undefined }) {
    const confirm = verb === 'destroy-copies' ? { confirm: true } : {};
    const path = `${pathOf(this.migration.id)}/${verb}`;
    return this.#keep(await this.#connection.post<Did>(path, { ...some, ...confirm }));
  }

  #keep(answer: Did): Did {
    this.migration = answer.migration;
    for (const key of answer.keys) this.#results.set(key.key, key);
    return answer;
  }
}

function conclude(
  walk: Walk,
  options: SharedOptions,
  {
    report,
    interrupted,
    leftOut = [],
  }: { report?: string; interrupted: boolean; leftOut?: MigrationPlanView['keys'] },
): void {
  const { migration } = walk;
  const keys = walk.results();
  const failed = keys.filter(({ error }) => error);
  if (failed.length > 0 || leftOut.length > 0 || interrupted) process.exitCode = refused;
  if (options.json) return void printJson({ migration, keys, leftOut, interrupted, report });
  const { id, state } = migration;
  print(listing({ migration: id, state, keys: countsOf(migration), report }));
  for (const { key, reason } of leftOut) print(`left out: key ${key}: ${reason?.code}: ${reason?.detail}`);
  for (const { key, error } of failed) print(`failed: key ${key}: ${error?.code}: ${error?.detail}`);
  if (state === 'unfinished') print(`to go on: keyslot migrate run ${id}`);
}

/** What stopped the command, and how the migration goes on: it was begun, and what was done of it stays. */
const resumable = ({ code, message }: KeyslotError, id: string): KeyslotError =>
  new KeyslotError(code, `${message} The migration goes on with: keyslot migrate run ${id}.`);

/** Where others have to agree: how they are asked. */
function requestable(error: KeyslotError, id: string, keys: readonly string[]): KeyslotError {
  if (error.code !== 'APPROVAL_REQUIRED') return error;
  const input = JSON.stringify({ migration: id, keys: keys.slice(0, page_items), max: page_items });
  const how = `keyslot approvals request destroy-copies --input '${input}' --reason …`;
  return new KeyslotError(error.code, `${error.message} Ask for it with: ${how}.`);
}

/** Everything that the appliance knows of a migration and its keys. No secret is among it. */
async function reportOf(
  connection: Connection,
  { id, leftOut = [] }: { id: string; leftOut?: MigrationPlanView['keys'] },
): Promise<MigrationReport> {
  const { migration } = await connection.get<Did>(`${pathOf(id)}?limit=1`);
  return { migration, keys: await everyKey(connection, id), leftOut };
}

async function everyKey(connection: Connection, id: string): Promise<MigrationKeyView[]> {
  const keys: MigrationKeyView[] = [];
  let cursor: string | undefined;
  do {
    const query = new URLSearchParams({ limit: String(page_items), ...(cursor ? { cursor } : {}) });
    const page = await connection.get<Did>(`${pathOf(id)}?${query}`);
    keys.push(...page.keys);
    cursor = page.next;
  } while (cursor);
  return keys;
}

function printPlan({ possible, impossible, notes, keys }: MigrationPlanView): void {
  const rows = keys.map(({ key, publicKey = '-', possible: can, reason }) => [
    key,
    publicKey,
    can ? 'yes' : 'no',
    reason ? `${reason.code}: ${reason.detail}` : '',
  ]);
  print(table(['KEY', 'ADDRESS', 'POSSIBLE', 'WHY NOT'], rows));
  for (const note of notes) print(`note: ${note}`);
  print(`${possible} can be moved, ${impossible} cannot.`);
}

function printMigration(report: MigrationReport, options: SharedOptions): void {
  if (options.json) return void printJson(report);
  const { id, from, to, createdAt, createdBy, state } = report.migration;
  print(listing({ id, from, to, createdAt, createdBy, state, keys: countsOf(report.migration) }));
  const rows = report.keys.map(({ key, publicKey, step, custodyBefore, custodyAfter = '-', error }) => [
    key,
    publicKey,
    step,
    custodyBefore,
    custodyAfter,
    error ? `${error.code}: ${error.detail}` : '',
  ]);
  print(table(['KEY', 'ADDRESS', 'STEP', 'BEFORE', 'AFTER', 'FAILURE'], rows));
}

interface Did {
  readonly migration: MigrationView;
  readonly keys: readonly MigrationKeyView[];
  readonly next?: string;
}

type Started = MigrationView & { readonly leftOut: MigrationPlanView['keys'] };
type Step = MigrationKeyView['step'];
type Verb = 'run' | 'verify' | 'rollback' | 'destroy-copies';

const labels: Readonly<Record<Verb, string>> = {
  run: 'moving',
  verify: 'verifying',
  rollback: 'rolling back',
  'destroy-copies': 'destroying copies',
};

/** The steps at which a key has something to do with it. */
const stepsOf: Readonly<Record<Verb, readonly Step[]>> = {
  run: ['planned', 'imported', 'proven', 'switched'],
  verify: ['switched', 'kept', 'destroyed'],
  rollback: ['planned', 'imported', 'proven', 'switched', 'kept', 'destroyed'],
  'destroy-copies': ['switched', 'kept', 'rolled-back'],
};

const page_items = 100;
const pathOf = (id: string): string => `/v1/migrations/${encodeURIComponent(id)}`;

const sum = ({ counts }: MigrationView, steps: readonly Step[]): number =>
  steps.reduce((total, step) => total + (counts[step] ?? 0), 0);

/** Named keys in parts that fit into a body; none are one part, which means all. */
function partsOf(keys: readonly string[] | undefined): readonly (readonly string[] | undefined)[] {
  if (!keys) return [undefined];
  const parts = Math.ceil(keys.length / page_items);
  return Array.from({ length: parts }, (_, at) => keys.slice(at * page_items, (at + 1) * page_items));
}

/** "3 kept, 1 planned (1 failed)" */
function countsOf({ counts, failed }: MigrationView): string {
  const steps = Object.entries(counts)
    .filter(([, keys]) => keys > 0)
    .map(([step, keys]) => `${keys} ${step}`);
  return `${steps.join(', ')}${failed > 0 ? ` (${failed} failed)` : ''}`;
}
