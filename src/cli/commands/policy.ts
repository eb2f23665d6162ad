import { existsSync } from 'node:fs';
import type { Command } from 'commander';
import { encodeBase64 } from '../../foundation/base64.ts';
import type { PolicyView, VerdictView } from '../../wire/policies.ts';
import { Connection, configOf, type SharedOptions } from '../connection.ts';
import { listing, misused, print, printJson, refused, table } from '../output.ts';
import { fileBytes, fileText } from '../secret-input.ts';

type ExplainOptions = SharedOptions & {
  key: string;
  transaction?: string;
  message?: string;
  messageFile?: string;
  policy?: string;
};

export function addPolicy(program: Command, shared: (command: Command) => Command): void {
  const policy = program.command('policy').description('what keys may sign');
  shared(policy.command('list').description('every policy in its newest version')).action(list);
  shared(policy.command('show').description('one policy in full').argument('<name>'))
    .option('--version <n>', 'an older version')
    .action(show);
  shared(policy.command('put').description('make a policy, or a new version of one').argument('<file>'))
    .option('--expected <n>', 'the version that the change was made from; 0 for one that must not exist yet')
    .option('--approval <id>', 'the approval of others, where the configuration asks for one')
    .action(put);
  shared(policy.command('delete').description('remove a policy').argument('<name>'))
    .option('--approval <id>', 'the approval of others, where the configuration asks for one')
    .action(remove);
  policy
    .command('check')
    .description('check a document offline')
    .argument('<file>')
    .option('--json', 'print JSON instead of tables')
    .exitOverride()
    .action(check);
  shared(policy.command('explain').description('what every rule would say, without signing'))
    .requiredOption('--key <key>', 'the key that would sign')
    .option('--transaction <base64>', 'a wire transaction in base64, or a file with it; - for standard input')
    .option('--message <text>', 'the text itself')
    .option('--message-file <file>', 'the bytes of a file')
    .option('--policy <file>', 'a candidate that is asked in place of the policies of the key')
    .action(explain);
  shared(policy.command('replay').description('what candidates would have said to the requests of the past'))
    .requiredOption('--policy <file>', 'a candidate; may be repeated', (file, files: string[] = []) => [
      ...files,
      file,
    ])
    .requiredOption('--since <time>', 'how far back: 7d, 12h, 30m, or an ISO time')
    .action(async (options: ReplayOptions, command: Command) => {
      const { replayPolicies } = await import('./policy-replay.ts');
      await replayPolicies(options, command);
    });
}

type ReplayOptions = SharedOptions & { policy: string[]; since: string };

/** The policy engine is loaded only by the commands that need it: that takes longer than most of the others. */
async function documentOf(file: string): Promise<Readonly<Record<string, unknown>>> {
  const { policyDocument } = await import('../../appliance/policy-files.ts');
  return policyDocument(file);
}

async function list(options: SharedOptions): Promise<void> {
  const answer = await new Connection(configOf(options)).get<{ policies: PolicyView[] }>('/v1/policies');
  if (options.json) return printJson(answer);
  const rows = answer.policies.map(each => [
    each.name,
    String(each.version),
    each.source,
    each.permissive ? 'PERMISSIVE' : 'no',
    each.createdAt,
    each.createdBy,
  ]);
  print(table(['POLICY', 'VERSION', 'KEPT IN', 'PERMISSIVE', 'SINCE', 'BY'], rows));
}

async function show(name: string, options: SharedOptions & { version?: string }): Promise<void> {
  const { version } = options;
  const path =
    version === undefined ? pathOf(name) : `${pathOf(name)}/versions/${encodeURIComponent(version)}`;
  printPolicy(await new Connection(configOf(options)).get<PolicyView>(path), options);
}

async function put(
  file: string,
  { expected, approval, ...options }: SharedOptions & { expected?: string; approval?: string },
): Promise<void> {
  const document = await documentOf(file);
  const body = { document, ...(expected === undefined ? {} : { expected: Number(expected) }) };
  const path = pathOf(String(document.name));
  printPolicy(await new Connection(configOf(options)).put<PolicyView>(path, body, { approval }), options);
}

async function remove(
  name: string,
  { approval, ...options }: SharedOptions & { approval?: string },
): Promise<void> {
  const removed = await new Connection(configOf(options)).delete<PolicyView>(pathOf(name), { approval });
  if (options.json) printJson(removed);
  else print(`deleted: ${removed.name} (it was version ${removed.version})`);
}

/** Everything that the appliance would check, without one. POLICY_INVALID. */
async function check(file: string, { json }: { json?: boolean }): Promise<void> {
  const { compilePolicy } = await import('../../policy/compile.ts');
  const { parsePolicy } = await import('../../policy/document.ts');
  const { name, permissive, document } = compilePolicy(parsePolicy(await documentOf(file)), 0);
  const { appliesTo, messages, transactions } = document;
  const what = {
    name,
    valid: true,
    permissive,
    appliesTo: appliesTo === 'all' ? 'every key' : scopeText(appliesTo),
    transactions: transactions ? 'some' : 'none',
    messages: messages === 'none' ? 'none' : 'some',
  };
  if (json) printJson(what);
  else {
    print(listing(what));
    if (permissive) print('It is permissive: whoever may use its keys may take all that they hold.');
  }
}

async function explain(options: ExplainOptions, command: Command): Promise<void> {
  const { key, transaction, message, messageFile, policy } = options;
  if ([transaction, message, messageFile].filter(each => each !== undefined).length !== 1) {
    command.error('Give exactly one of --transaction, --message, --message-file.', { exitCode: misused });
  }
  const what =
    transaction === undefined
      ? {
          message: encodeBase64(message === undefined ? fileBytes(messageFile ?? '-') : Buffer.from(message)),
        }
      : { transaction: base64Of(transaction) };
  const candidate = policy === undefined ? {} : { document: await documentOf(policy) };
  const verdict = await new Connection(configOf(options)).post<VerdictView>('/v1/policies/evaluate', {
    key,
    ...what,
    ...candidate,
  });
  if (options.json) printJson(verdict);
  else printVerdict(verdict);
  if (!verdict.allowed) process.exitCode = refused;
}

function printVerdict({ allowed, policies, rules, violations, charges, decoded }: VerdictView): void {
  print(JSON.stringify(decoded, null, 2));
  const rows = rules.map(({ rule, verdict, reason, instruction }) => [
    rule,
    verdict,
    instruction === undefined ? '' : String(instruction),
    reason,
  ]);
  if (rows.length > 0) print(table(['RULE', 'VERDICT', 'INSTRUCTION', 'WHY'], rows));
  const counts = charges.map(({ counter, window_s, amount }) => [counter, `${window_s} s`, amount]);
  if (counts.length > 0) print(table(['COUNTER', 'WINDOW', 'AMOUNT'], counts));
  print(`policies asked: ${policies.join(', ') || 'none'}`);
  if (rules.length === 0) for (const { rule, reason } of violations) print(`${rule}: ${reason}`);
  print(allowed ? 'ALLOWED' : 'REFUSED');
}

function printPolicy(policy: PolicyView, options: SharedOptions): void {
  if (options.json) {
    printJson(policy);
    return;
  }
  const { document, ...rest } = policy;
  print(listing(rest));
  print(JSON.stringify(document, null, 2));
}

/** A file when there is one of that name; otherwise the text itself. */
const base64Of = (text: string): string => (text === '-' || existsSync(text) ? fileText(text).trim() : text);

const scopeText = (scope: { keys: string[]; tags: string[]; slots: string[] }): string =>
  Object.entries(scope)
    .filter(([, names]) => names.length > 0)
    .map(([kind, names]) => `${kind} ${names.join(', ')}`)
    .join('; ');

const pathOf = (name: string): string => `/v1/policies/${encodeURIComponent(name)}`;
