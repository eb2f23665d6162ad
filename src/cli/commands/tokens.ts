import type { Command } from 'commander';
import type { ApiTokenView } from '../../wire/identities.ts';
import { Connection, configOf, type SharedOptions } from '../connection.ts';
import { listing, print, printJson, table } from '../output.ts';

type IssueOptions = SharedOptions & { label: string; days: string };

export function addTokens(program: Command, shared: (command: Command) => Command): void {
  const tokens = program.command('tokens').description('API tokens of programs without a certificate');
  shared(tokens.command('issue').description('make a token and show it, this once').argument('<identity>'))
    .option('--label <text>', 'what it is for', '')
    .option('--days <days>', 'how long it lives', '90')
    .action(issue);
  shared(tokens.command('list').description('every token, without what it is'))
    .option('--identity <name>', 'those of one identity')
    .action(list);
  shared(tokens.command('revoke').description('end a token at once').argument('<token>', 'its id')).action(
    revoke,
  );
}

async function issue(identity: string, options: IssueOptions): Promise<void> {
  const expiresIn_s = Math.round(Number(options.days) * 86_400);
  const body = { identity, label: options.label, expiresIn_s };
  const made = await new Connection(configOf(options)).post<ApiTokenView & { token: string }>(
    '/v1/tokens',
    body,
  );
  if (options.json) return printJson(made);
  print(listing(made));
}

async function list(options: SharedOptions & { identity?: string }): Promise<void> {
  const query = options.identity === undefined ? '' : `?identity=${encodeURIComponent(options.identity)}`;
  const answer = await new Connection(configOf(options)).get<{ tokens: ApiTokenView[] }>(
    `/v1/tokens${query}`,
  );
  if (options.json) return printJson(answer);
  const rows = answer.tokens.map(each => [each.id, each.identity, each.state, each.expiresAt, each.label]);
  print(table(['TOKEN', 'IDENTITY', 'STATE', 'EXPIRES', 'LABEL'], rows));
}

async function revoke(id: string, options: SharedOptions): Promise<void> {
  const path = `/v1/tokens/${encodeURIComponent(id)}`;
  const token = await new Connection(configOf(options)).delete<ApiTokenView>(path);
  if (options.json) printJson(token);
  else print(listing(token));
}
