import { parseArgs } from 'node:util';
import { atMost, type Chaos, exactly, type Figure, isMet, type Scenario, told } from '../chaos/figure.ts';
import { House, key, tokenLabel } from '../chaos/house.ts';
import { overload } from '../chaos/overload.ts';
import { type Report, reportJson, reportText } from '../chaos/report.ts';
import { runAll } from '../chaos/scenarios.ts';
import { type Attack, attacks } from './attacks.ts';
import { rowJson, rowLine, rowsMarkdown, rowsText } from './report.ts';
import { type Row, Siege } from './siege.ts';

/**
 * `npm run hostile`: what hostile clients cost everybody else. One appliance is attacked in one way after the other while
 * others have signatures made at a steady pace; then another one gets ten times the load that it can carry. The status
 * is 1 when a promise is broken; nothing is left running, also after Ctrl-C.
 */
const usage = `usage: npm run hostile -- [--only NAME,NAME] [--seconds SECONDS] [--json] [--markdown]

  --only      of ${[...attacks.map(({ name }) => name), overload.name].join(', ')}
  --seconds   how long the others are measured before and during each attack (10)
  --json      one line of JSON last
  --markdown  the table as a page has it`;

interface Flags {
  readonly only: readonly string[] | undefined;
  readonly seconds: number;
  readonly json: boolean;
  readonly markdown: boolean;
}

async function main({ only, seconds, json, markdown }: Flags): Promise<boolean> {
  const began_ms = performance.now();
  const wanted = attacks.filter(({ name }) => only?.includes(name) ?? true);
  const rows: Row[] = [];
  const sieges: Scenario = {
    name: 'attacks',
    what: 'hostile clients',
    run: async chaos => besiege(chaos, wanted, seconds, rows),
  };
  const scenarios = [
    ...(wanted.length > 0 ? [sieges] : []),
    ...((only?.includes(overload.name) ?? true) ? [overload] : []),
  ];
  const found = await runAll(scenarios, true, limit_s);
  const report: Report = { ...found, short: true, seconds: (performance.now() - began_ms) / 1_000 };
  if (rows.length > 0) console.log(`${markdown ? rowsMarkdown(rows) : rowsText(rows)}\n`);
  console.log(reportText(report));
  if (json) console.log(JSON.stringify({ ...reportJson(report), attacks: rows.map(rowJson) }));
  return Object.keys(found.broken).length === 0 && found.figures.every(isMet);
}

async function besiege(
  { stack, progress }: Chaos,
  wanted: typeof attacks,
  seconds: number,
  rows: Row[],
): Promise<readonly Figure[]> {
  const house = await House.start(stack, { sessions });
  house.faulty.inject({ on: 'C_Sign', effect: 'latency', ms: latency_ms, token: tokenLabel });
  const siege = new Siege(house.appliance, { key, tls: house.tls, seconds, stack, progress });
  progress('the others alone');
  await siege.warmUp(warmUp_s);
  // What the first crowd of all takes of memory is kept for the next one.
  const [first] = attacks;
  if (first) await siege.under(first);
  const figures: Figure[] = [];
  for (const attack of wanted) {
    const besieged = await measured(siege, attack);
    rows.push(besieged.reduce((best, row) => (row.ratio < best.ratio ? row : best)));
    figures.push(...promises(attack, besieged));
  }
  return figures;
}

/**
 * What is missed is measured again. What an attack costs it costs each time, and other work does not; a leak leaks
 * each time, and what the collector has not given back yet is there once.
 */
async function measured(siege: Siege, attack: Attack): Promise<readonly Row[]> {
  const rows: Row[] = [];
  do {
    const row = await siege.under(attack);
    rows.push(row);
    if (process.stderr.isTTY) process.stderr.write('\r\x1b[K');
    console.error(rowLine(row)); // the whole takes a while
  } while (rows.length < tries && (!rows.some(isFast) || !rows.some(isSmall)));
  return rows;
}

/** What everybody else is promised while somebody attacks: each time, but for what other work explains. */
function promises(attack: Attack, rows: readonly Row[]): readonly Figure[] {
  const name = attack.name.replaceAll('-', '_');
  const all = (count: (row: Row) => number) => rows.reduce((sum, row) => sum + count(row), 0);
  const least = (of: (row: Row) => number) => Math.min(...rows.map(of));
  const isOther = ([end]: readonly [string, number]) => !attack.ends.includes(end);
  return [
    exactly(
      `${name}_other_answers`,
      'answers to the others that are no signatures',
      all(({ before, during }) =>
        sum([...Object.entries(before.refused), ...Object.entries(during.refused)]),
      ),
      0,
    ),
    exactly(
      `${name}_turned_away`,
      'newcomers without a signature',
      all(({ newcomers }) => newcomers.came - newcomers.served),
      0,
    ),
    exactly(
      `${name}_other_ends`,
      `attackers that heard anything but ${attack.ends.join(', ')}`,
      all(({ tally }) => sum(Object.entries(tally.ends).filter(isOther))),
      0,
    ),
    exactly(
      `${name}_left`,
      'connections that are left',
      all(({ tally, left }) => tally.left + left),
      0,
    ),
    atMost(
      `${name}_p99_ratio`,
      'p99 of the others, during to before',
      least(({ ratio }) => ratio),
      ratio_max,
    ),
    atMost(`${name}_memory_MiB`, 'more resident memory after it', least(growth_MiB), growth_MiB_max),
    told(
      `${name}_newcomer_ms`,
      'the slowest newcomer',
      Math.max(...rows.map(({ newcomers }) => newcomers.slowest_ms)),
    ),
  ];
}

const isFast = ({ ratio }: Row) => ratio <= ratio_max;
const isSmall = (row: Row) => growth_MiB(row) <= growth_MiB_max;
const growth_MiB = ({ memory_MiB }: Row) => memory_MiB.after - memory_MiB.before;

const sum = (entries: readonly (readonly [string, number])[]): number =>
  entries.reduce((all, [, count]) => all + count, 0);

const ratio_max = 2;
const tries = 3;
const warmUp_s = 20;
/** A token as networks have them: each signature takes it so long. */
const latency_ms = 25;
const sessions = 8;
const limit_s = 3_600;
/** What the collector has not given back when it is looked at. */
const growth_MiB_max = 32;

function parsedFlags(args: readonly string[]): Flags {
  const { values } = parseArgs({
    args: [...args],
    options: {
      only: { type: 'string' },
      seconds: { type: 'string', default: '10' },
      json: { type: 'boolean', default: false },
      markdown: { type: 'boolean', default: false },
    },
  });
  const { json, markdown } = values;
  const only = values.only?.split(',');
  const known = [...attacks.map(({ name }) => name), overload.name];
  const unknown = only?.find(name => !known.includes(name));
  if (unknown !== undefined) throw new TypeError(`--only has no attack ${unknown}.`);
  const seconds = Number(values.seconds);
  if (!(seconds >= 1 && seconds <= 120)) throw new TypeError('--seconds is from 1 to 120.');
  return { only, seconds, json, markdown };
}

let flags: Flags;
try {
  flags = parsedFlags(process.argv.slice(2));
} catch (thrown) {
  console.error(`hostile: ${(thrown as Error).message}\n${usage}`);
  process.exit(2);
}
process.exit((await main(flags)) ? 0 : 1);
