import type { Command } from 'commander';
import { KeyslotError } from '../../foundation/errors.ts';
import type { ApprovalView } from '../../wire/policies.ts';
import { confirmed } from '../confirmation.ts';
import { Connection, configOf, type SharedOptions } from '../connection.ts';
import { listing, misused, print, printJson, table } from '../output.ts';
import { fileText } from '../secret-input.ts';

type RequestOptions = SharedOptions & { input: string; reason: string };
type DecideOptions = SharedOptions & { yes?: boolean };

/** What nobody does alone: one requests exactly one operation, others say yes to it, the one does it. */
export function addApprovals(program: Command, shared: (command: Command) => Command): void {
  const approvals = program.command('approvals').description('what nobody does alone');
  shared(approvals.command('list').description('those that wait, and those that are over')).action(list);
  shared(approvals.command('show').description('one in full').argument('<approval>')).action(show);
  shared(approvals.command('request').description('ask others to agree to one operation'))
    .argument('<operation>', 'as APPROVAL_REQUIRED names it: export-key, destroy-key, put-policy …')
    .requiredOption(
      '--input <json>',
      'exactly what it will be asked with; @file for a file, - for standard input',
    )
    .requiredOption('--reason <text>', 'why; whoever decides reads it')
    .action(request);
  for (const decision of ['approve', 'reject'] as const) {
    shared(approvals.command(decision).description(`${decision} what somebody else requested`))
      .argument('<approval>')
      .option('--yes', 'do not ask')
      .action((id: string, options: DecideOptions, command: Command) =>
        decide(decision, id, options, command),
      );
  }
}

async function list(options: SharedOptions): Promise<void> {
  const answer = await new Connection(configOf(options)).get<{ approvals: ApprovalView[] }>('/v1/approvals');
  if (options.json) return printJson(answer);
  const rows = answer.approvals.map(each => [
    each.id,
    each.state,
    `${each.approvedBy.length}/${each.needed}`,
    each.requestedBy,
    each.operation,
    each.reason,
  ]);
  print(table(['APPROVAL', 'STATE', 'YES', 'REQUESTED BY', 'OPERATION', 'WHY'], rows));
}

async function show(id: string, options: SharedOptions): Promise<void> {
  printApproval(await new Connection(configOf(options)).get<ApprovalView>(pathOf(id)), options);
}

async function request(operation: string, { input, reason, ...options }: RequestOptions): Promise<void> {
  const body = { operation, input: inputOf(input), reason };
  printApproval(await new Connection(configOf(options)).post<ApprovalView>('/v1/approvals', body), options);
}

/** Shows what is decided on before it is; the digest says that it is this and nothing else. */
async function decide(
  decision: 'approve' | 'reject',
  id: string,
  options: DecideOptions,
  command: Command,
): Promise<void> {
  const connection = new Connection(configOf(options));
  const approval = await connection.get<ApprovalView>(pathOf(id));
  if (!options.yes) {
    if (!process.stdin.isTTY) {
      command.error(`There is no terminal to ask on: say --yes to ${decision}.`, { exitCode: misused });
    }
    process.stderr.write(`${textOf(approval)}\n`);
    if (!(await confirmed(`Type "${decision}" to ${decision} exactly this: `, decision))) {
      throw new KeyslotError('REQUEST_ABORTED', 'Nothing was decided.');
    }
  }
  const { digest } = approval;
  const decided = await connection.post<ApprovalView>(`${pathOf(id)}/${decision}`, { digest });
  printApproval(decided, options);
}

function inputOf(text: string): unknown {
  const given = text === '-' ? fileText('-') : text.startsWith('@') ? fileText(text.slice(1)) : text;
  try {
    return JSON.parse(given);
  } catch (cause) {
    throw new KeyslotError('BODY_NOT_JSON', 'The input does not parse as JSON.', { cause });
  }
}

function printApproval(approval: ApprovalView, options: SharedOptions): void {
  if (options.json) printJson(approval);
  else print(textOf(approval));
}

const textOf = ({ input, approvedBy, rejectedBy, ...approval }: ApprovalView): string => {
  const names = { approvedBy: approvedBy.join(', ') || '-', rejectedBy: rejectedBy.join(', ') || '-' };
  return `${listing({ ...approval, ...names })}\ninput:\n${JSON.stringify(input, null, 2)}`;
};

const pathOf = (id: string): string => `/v1/approvals/${encodeURIComponent(id)}`;
