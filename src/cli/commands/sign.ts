import { readFileSync } from 'node:fs';
import type { Command } from 'commander';
import { encodeBase64 } from '../../foundation/base64.ts';
import { KeyslotError } from '../../foundation/errors.ts';
import type { ReceiptView } from '../../wire/audit.ts';
import { Connection, configOf, type SharedOptions } from '../connection.ts';
import { listing, misused, print, printJson, refused } from '../output.ts';
import { fileText } from '../secret-input.ts';

type MessageOptions = SharedOptions & { message?: string; messageFile?: string };
type SignOptions = MessageOptions & { transaction?: string; transactionFile?: string; raw?: boolean };

export function addSign(program: Command, shared: (command: Command) => Command): void {
  const withMessage = (command: Command) =>
    command
      .option('--message <text>', 'the text itself')
      .option('--message-file <file>', 'the bytes of a file; - for standard input');
  withMessage(
    shared(program.command('sign').description('sign a message or a transaction').argument('<key>')),
  )
    .option('--transaction <base64>', 'a wire transaction')
    .option('--transaction-file <file>', 'a file with the base64 of a wire transaction; - for standard input')
    .option('--raw', 'let a message pass that reads as a transaction; that takes the raw right')
    .action(sign);
  withMessage(
    shared(program.command('verify').description('check a signature of a message').argument('<key>')),
  )
    .requiredOption('--signature <signature>', 'base58 or base64')
    .action(verify);
}

async function sign(key: string, options: SignOptions, command: Command): Promise<void> {
  const given = [options.message, options.messageFile, options.transaction, options.transactionFile];
  requireOne(
    given,
    command,
    'Give exactly one of --message, --message-file, --transaction, --transaction-file.',
  );
  const connection = new Connection(configOf(options));
  const path = `/v1/keys/${encodeURIComponent(key)}`;
  const transaction =
    options.transactionFile === undefined ? options.transaction : fileText(options.transactionFile).trim();
  const answer =
    transaction === undefined
      ? await connection.post<Signed>(`${path}/sign-message`, {
          message: messageOf(options),
          raw: options.raw,
        })
      : await connection.post<Signed>(`${path}/sign-transaction`, { transaction });
  if (options.json) return printJson(answer);
  const { receipt, ...signed } = answer;
  print(
    listing({ ...signed, receipt: `${receipt.node} ${receipt.seq} ${receipt.hash}`, proof: receipt.proof }),
  );
}

type Signed = Readonly<Record<string, unknown>> & { readonly receipt: ReceiptView };

async function verify(
  key: string,
  options: MessageOptions & { signature: string },
  command: Command,
): Promise<void> {
  requireOne(
    [options.message, options.messageFile],
    command,
    'Give exactly one of --message and --message-file.',
  );
  const body = { message: messageOf(options), signature: options.signature };
  const path = `/v1/keys/${encodeURIComponent(key)}/verify`;
  const answer = await new Connection(configOf(options)).post<{ valid: boolean }>(path, body);
  if (options.json) printJson(answer);
  else print(answer.valid ? 'valid' : 'NOT valid');
  if (!answer.valid) process.exitCode = refused;
}

function messageOf({ message, messageFile }: MessageOptions): string {
  if (message !== undefined) return encodeBase64(Buffer.from(message));
  try {
    return encodeBase64(readFileSync(messageFile === undefined || messageFile === '-' ? 0 : messageFile));
  } catch (cause) {
    throw new KeyslotError('BODY_INVALID', `${messageFile} cannot be read.`, { cause });
  }
}

function requireOne(given: readonly (string | undefined)[], command: Command, text: string): void {
  if (given.filter(each => each !== undefined).length !== 1) command.error(text, { exitCode: misused });
}
