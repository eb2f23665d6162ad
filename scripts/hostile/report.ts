import { table } from '../../src/cli/output.ts';
import type { Row } from './siege.ts';

const headings = [
  'ATTACK',
  'OPENED',
  'WHAT THEY GOT',
  'KEPT',
  'OTHERS P50',
  'P99',
  'RATIO',
  'NEW',
  'RSS',
  'LEFT',
];

/** The table as people read it. */
export const rowsText = (rows: readonly Row[]): string => table(headings, rows.map(cells));

/** The same for a page. */
export const rowsMarkdown = (rows: readonly Row[]): string => {
  const line = (each: readonly string[]) => `| ${each.join(' | ')} |`;
  const [first, ...others] = headings.map(each => each.toLowerCase());
  return [
    line([first ?? '', ...others]),
    line(headings.map(() => '---')),
    ...rows.map(row => line(cells(row))),
  ].join('\n');
};

/** One attack, as soon as it is over. */
export const rowLine = (row: Row): string => cells(row).join(' · ');

export const rowJson = ({ attack, ...row }: Row): object => ({ attack: attack.name, ...row });

function cells({
  attack,
  tally,
  before,
  during,
  ratio,
  newcomers,
  memory_MiB,
  left,
}: Row): readonly string[] {
  const { least, most } = tally.kept_s;
  const ends = Object.entries(tally.ends).map(([end, count]) => `${end} × ${count}`);
  return [
    attack.name,
    String(tally.opened),
    ends.join(', '),
    most > 0 ? `${least.toFixed(1)}-${most.toFixed(1)} s` : '',
    `${before.acceptedP50_ms.toFixed(1)} → ${during.acceptedP50_ms.toFixed(1)} ms`,
    `${before.acceptedP99_ms.toFixed(1)} → ${during.acceptedP99_ms.toFixed(1)} ms`,
    ratio.toFixed(2),
    `${newcomers.served}/${newcomers.came}`,
    [memory_MiB.before, memory_MiB.peak, memory_MiB.after].map(each => each.toFixed(0)).join(' → '),
    String(tally.left + left),
  ];
}
