import { parseArgs } from 'node:util';
import { type Mode, modes } from './work.ts';

export interface Flags {
  /** Each custody by itself, instead of the appliance end to end. */
  readonly engines: boolean;
  readonly quick: boolean;
  readonly json: boolean;
  readonly seconds: number;
  readonly warmUp_signatures: number;
  readonly warmUp_s: number;
  /** How long each of the many measurements of the raw limit takes. */
  readonly raw_s: number;
  readonly signatures: number;
  readonly connections: readonly number[];
  readonly modes: readonly Mode[];
  readonly memory: boolean;
  /** What policies and the audit log cost, against an appliance without them. */
  readonly cost: boolean;
  readonly costRounds: number;
  /** How long resident memory is sampled, before and after. */
  readonly settle_ms: number;
}

export const usage = `usage: npm run bench -- [engines] [--json] [--quick] [--seconds N] [--connections N,N] [--only PART,PART] [--signatures N]

  engines         save, load and sign in each custody by itself; takes --json and --quick
  --json          one line of JSON last
  --quick         a smoke test: a second each, few signatures; its numbers mean little
  --seconds N     how long each measurement takes (5)
  --connections   how many at a time (1,16,64,256)
  --only          of raw, single, message, batch, memory, cost (raw,single,batch,memory,cost)
  --signatures N  over which memory is watched (200000)`;

/** Throws a TypeError that says which flag is wrong. */
export function parsedFlags(args: readonly string[]): Flags {
  const { values, positionals } = parseArgs({
    args: [...args],
    allowPositionals: true,
    options: {
      json: { type: 'boolean', default: false },
      quick: { type: 'boolean', default: false },
      seconds: { type: 'string' },
      signatures: { type: 'string' },
      connections: { type: 'string', default: '1,16,64,256' },
      only: { type: 'string', default: 'raw,single,batch,memory,cost' },
    },
  });
  const { quick } = values;
  const stranger = positionals.find(each => each !== 'engines');
  if (stranger !== undefined) throw new TypeError(`There is no benchmark ${stranger}.`);
  const only = values.only.split(',');
  const unknown = only.find(part => !['raw', 'memory', 'cost', ...modes].includes(part));
  if (unknown !== undefined) throw new TypeError(`--only has no part ${unknown}.`);
  const seconds = numberFlag('seconds', values.seconds ?? (quick ? '1' : '5'), 600);
  return {
    engines: positionals.length > 0,
    quick,
    json: values.json,
    seconds,
    warmUp_signatures: quick ? 200 : 10_000,
    warmUp_s: quick ? Math.min(seconds, 0.3) : 1.5,
    raw_s: Math.min(seconds, quick ? 0.2 : 2),
    signatures: numberFlag('signatures', values.signatures ?? (quick ? '2000' : '200000'), 100_000_000),
    connections: values.connections
      .split(',')
      .map(text => Math.floor(numberFlag('connections', text, 1_000))),
    modes: modes.filter(mode => only.includes(mode)),
    memory: only.includes('memory'),
    cost: only.includes('cost'),
    costRounds: quick ? 1 : 5,
    settle_ms: quick ? 200 : 2_500,
  };
}

function numberFlag(name: string, text: string, max: number): number {
  const value = Number(text);
  if (text.trim() !== '' && value > 0 && value <= max) return value;
  throw new TypeError(`--${name} takes numbers above 0, up to ${max}.`);
}
