import type { Command } from 'commander';
import type { GroupMemberView, GroupView } from '../../wire/groups.ts';
import { Connection, configOf, type SharedOptions } from '../connection.ts';
import { print, printJson, table } from '../output.ts';

export function addGroups(program: Command, shared: (command: Command) => Command): void {
  const groups = program.command('groups').description('slots that hold the same keys');
  shared(groups.command('status').description('every group, and what each of its slots does for it')).action(
    status,
  );
}

async function status(options: SharedOptions): Promise<void> {
  const answer = await new Connection(configOf(options)).get<{ groups: GroupView[] }>('/v1/groups');
  if (options.json) {
    printJson(answer);
    return;
  }
  const rows = answer.groups.flatMap(({ id, state, members }) =>
    members.map((member, at) => [...(at === 0 ? [id, state] : ['', '']), ...cells(member)]),
  );
  print(table(headings, rows));
}

const headings = ['GROUP', 'STATE', 'SLOT', 'WEIGHT', 'SLOT STATE', 'CIRCUIT', 'SINCE', 'KEYS', 'LAST ERROR'];

const cells = ({ slot, weight, state, circuit, since, keys, lastError = '' }: GroupMemberView): string[] => [
  slot,
  weight === 0 ? 'standby' : String(weight),
  state,
  circuit,
  since,
  keys ? keysText(keys) : 'unknown',
  lastError,
];

const keysText = ({ home, copies, missing, mismatched }: NonNullable<GroupMemberView['keys']>): string =>
  [
    `${home} of its own`,
    `${copies} copied`,
    ...(missing > 0 ? [`${missing} missing`] : []),
    ...(mismatched > 0 ? [`${mismatched} not the same`] : []),
  ].join(', ');
