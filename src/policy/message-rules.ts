import { isUtf8 } from 'node:buffer';
import type { CompiledPolicy } from './compile.ts';
import type { MessageFacts } from './facts.ts';
import type { Findings } from './verdict.ts';

/** Whether bytes that are no transaction may be signed. */
export function judgeMessage(policy: CompiledPolicy, facts: MessageFacts, findings: Findings): void {
  const refusal = refusalOf(policy, facts);
  if (refusal === undefined) findings.allow(policy, 'messages', 'messages like this are allowed');
  else findings.deny(policy, 'messages', refusal);
}

function refusalOf({ messages }: CompiledPolicy, { form, bytes }: MessageFacts): string | undefined {
  if (messages === undefined) return 'messages are not allowed';
  switch (form) {
    case 'raw-transaction':
      return messages.raw ? undefined : 'the message is a transaction, and raw is not allowed';
    case 'offchain':
      return messages.offchain ? undefined : 'off-chain messages are not allowed';
    case 'bytes':
      return refusalOfBytes(messages.bytes, bytes);
  }
}

function refusalOfBytes(
  allowed: 'none' | 'any' | readonly Uint8Array[],
  bytes: Uint8Array,
): string | undefined {
  if (allowed === 'any') return undefined;
  if (allowed === 'none') return 'messages outside the off-chain envelope are not allowed';
  if (!isUtf8(bytes)) return 'the message is not text, and only texts with a listed beginning are allowed';
  const listed = allowed.some(prefix => beginsWith(bytes, prefix));
  return listed ? undefined : 'the message does not begin with a listed text';
}

const beginsWith = (bytes: Uint8Array, prefix: Uint8Array): boolean =>
  bytes.length >= prefix.length && prefix.every((byte, index) => bytes[index] === byte);
