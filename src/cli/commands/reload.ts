import type { Command } from 'commander';
import type { Changes, ReloadDiff, Reloaded, ReloadView } from '../../wire/reload.ts';
import { Connection, configOf, type SharedOptions } from '../connection.ts';
import { print, printJson } from '../output.ts';

type Options = SharedOptions & { readonly last?: boolean };

export function addReload(program: Command, shared: (command: Command) => Command): void {
  shared(program.command('reload'))
    .description('have a running appliance read its configuration, policies and certificates again')
    .option('--last', 'only say what came of the last time')
    .action((options: Options) => (options.last ? showLast(options) : reload(options)));
}

async function reload(options: Options): Promise<void> {
  const result = await new Connection(configOf(options)).post<Reloaded>('/v1/reload', {});
  if (options.json) printJson(result);
  else print(textOf(result));
}

async function showLast(options: Options): Promise<void> {
  const answer = await new Connection(configOf(options)).get<{ running: boolean; last?: ReloadView }>(
    '/v1/reload',
  );
  if (options.json) printJson(answer);
  else print(answer.last ? lastText(answer.last) : 'The configuration was not read again since the start.');
}

function lastText({ at, by, outcome, code, detail, result }: ReloadView): string {
  const said = result ? textOf(result) : `Nothing was changed. ${code}: ${detail}`;
  return `${outcome} at ${at}, by ${by}\n${said}`;
}

function textOf({ changed, diff, keysGone }: Reloaded): string {
  const lines = [
    ...(changed ? linesOf(diff) : ['Nothing has changed.']),
    ...keysGone.map(
      ({ slot, key }) => `! slot ${slot} does not hold the key ${key} as it should: it signs nothing`,
    ),
  ];
  return lines.join('\n');
}

const linesOf = ({ certificates, settings, ...named }: ReloadDiff): string[] => [
  ...Object.entries(named).flatMap(([kind, changes]) => changeLines(singular[kind] ?? kind, changes)),
  ...certificates.map(name => `~ certificate ${name}`),
  ...settings.map(name => `~ ${name}`),
];

const changeLines = (kind: string, { added, changed, removed }: Changes): string[] => [
  ...added.map(name => `+ ${kind} ${name}`),
  ...changed.map(name => `~ ${kind} ${name}`),
  ...removed.map(name => `- ${kind} ${name}`),
];

const singular: Readonly<Record<string, string>> = {
  slots: 'slot',
  groups: 'group',
  identities: 'identity',
  jwtIssuers: 'JWT issuer',
  policies: 'policy',
};
