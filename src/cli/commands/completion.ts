import { Argument, type Command } from 'commander';
import { runningAppliance } from '../../appliance/home.ts';
import { isKeyslotError } from '../../foundation/errors.ts';
import { limits } from '../../foundation/limits.ts';
import { completionScript, type Shell, shells } from '../completion-scripts.ts';
import { Connection, configOf, type SharedOptions } from '../connection.ts';
import { print, refused } from '../output.ts';

/** `all` adds the commands that were not loaded, so that the script knows them. */
export function addCompletion(
  program: Command,
  shared: (command: Command) => Command,
  all: () => Promise<void>,
): void {
  shared(program.command('completion'))
    .description('print a script that completes this command in a shell: source <(keyslot completion bash)')
    .addArgument(
      new Argument('<shell>', 'keys and slots list ids, for the scripts').choices([...shells, ...lists]),
    )
    .action(async (wanted: Shell | List, options: SharedOptions) => {
      const list = lists.find(each => each === wanted);
      if (list) return await printIds(list, options);
      await all();
      process.stdout.write(completionScript(wanted as Shell, program));
    });
}

const lists = ['keys', 'slots'] as const;
type List = (typeof lists)[number];

/** One id a line; nothing, soon, when there is nobody to ask: somebody waits with a finger on the Tab key. */
async function printIds(list: List, options: SharedOptions): Promise<void> {
  const late = setTimeout(() => process.exit(refused), wait_ms);
  try {
    const config = configOf(options);
    if (!runningAppliance(config.home)) return;
    const path = list === 'keys' ? `/v1/keys?limit=${limits.page_items_max}` : '/v1/slots';
    const answer = await new Connection(config).get<
      Partial<Record<List, readonly { readonly id: string }[]>>
    >(path);
    for (const { id } of answer[list] ?? []) print(id);
  } catch (thrown) {
    if (!isKeyslotError(thrown)) throw thrown;
    process.exitCode = refused;
  } finally {
    clearTimeout(late);
  }
}

const wait_ms = 1_500;
