import { isUtf8 } from 'node:buffer';
import { programKey } from '../named-programs.ts';
import type { Call, Decoded, Program } from './instruction.ts';

/** The memo programs: the data is the text, and all accounts must have signed. Bytes that are no text fail. */
const memoProgram = (name: string): Program => ({
  id: programKey(name),
  decode: call => decode(`${name}.memo`, call),
});

const decode = (name: string, { data }: Call): Decoded => ({
  name,
  understood: true,
  effects: [{ kind: 'memo', text: isUtf8(data) ? Buffer.from(data).toString('utf8') : undefined }],
});

export const memo = memoProgram('memo');
export const memoV1 = memoProgram('memo-v1');
