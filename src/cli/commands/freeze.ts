import type { Command } from 'commander';
import type { FreezeView } from '../../wire/policies.ts';
import { Connection, configOf, type SharedOptions } from '../connection.ts';
import { listing, print, printJson, table } from '../output.ts';

type FreezeOptions = SharedOptions & { reason: string };

/** The switches that stop signing at once, and the one that lets it go on. */
export function addFreeze(program: Command, shared: (command: Command) => Command): void {
  const freeze = program.command('freeze').description('stop signing at once');
  const because = (command: Command) =>
    command.requiredOption('--reason <text>', 'why; whoever is refused reads it');
  because(shared(freeze.command('appliance').description('every key'))).action((options: FreezeOptions) =>
    stop('appliance', undefined, options),
  );
  because(shared(freeze.command('slot').description('the keys of a slot').argument('<slot>'))).action(
    (slot: string, options: FreezeOptions) => stop('slot', slot, options),
  );
  because(shared(freeze.command('key').description('one key').argument('<key>'))).action(
    (key: string, options: FreezeOptions) => stop('key', key, options),
  );
  shared(freeze.command('list').description('what is frozen')).action(list);
  shared(program.command('thaw').description('lift a freeze; that takes an admin'))
    .argument('<freeze>', 'appliance, slot/<id> or key/<id>, as keyslot freeze list has it')
    .requiredOption('--reason <text>', 'why it is over')
    .option('--approval <id>', 'the approval of others, where the configuration asks for one')
    .action(thaw);
}

async function stop(
  scope: FreezeView['scope'],
  target: string | undefined,
  { reason, ...options }: FreezeOptions,
): Promise<void> {
  const body = { scope, target, reason };
  printFreeze(await new Connection(configOf(options)).post<FreezeView>('/v1/freezes', body), options);
}

async function list(options: SharedOptions): Promise<void> {
  const answer = await new Connection(configOf(options)).get<{ freezes: FreezeView[] }>('/v1/freezes');
  if (options.json) return printJson(answer);
  if (answer.freezes.length === 0) return print('Nothing is frozen.');
  const rows = answer.freezes.map(({ id, since, by, reason }) => [id, since, by, reason]);
  print(table(['FREEZE', 'SINCE', 'BY', 'WHY'], rows));
}

async function thaw(
  freeze: string,
  { reason, approval, ...options }: FreezeOptions & { approval?: string },
): Promise<void> {
  const connection = new Connection(configOf(options));
  const thawed = await connection.post<FreezeView>('/v1/freezes/thaw', { freeze, reason }, { approval });
  if (options.json) printJson(thawed);
  else print(`thawed: ${thawed.id}`);
}

function printFreeze(freeze: FreezeView, options: SharedOptions): void {
  if (options.json) printJson(freeze);
  else print(listing({ ...freeze }));
}
