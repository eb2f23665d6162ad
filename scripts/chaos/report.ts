import { table } from '../../src/cli/output.ts';
import { type Figure, isMet } from './figure.ts';

/** What a run found: the figures, and which scenarios came to no end, with the reason. */
export interface Report {
  readonly figures: readonly Figure[];
  readonly broken: Readonly<Record<string, string>>;
  readonly notes: readonly string[];
  readonly short: boolean;
  readonly seconds: number;
}

/** The report as people read it. */
export function reportText({ figures, broken, notes, seconds }: Report): string {
  const rows = figures.map(figure => [
    verdict(figure),
    figure.name,
    shown(figure.value),
    aimText(figure),
    figure.what,
  ]);
  const parts = [table(['', 'FIGURE', 'VALUE', 'AIM', 'WHAT'], rows)];
  for (const [name, why] of Object.entries(broken)) parts.push(`✗ ${name} came to no end: ${why}`);
  parts.push(...notes);
  parts.push(`${seconds.toFixed(0)} s. ${summary(figures, broken)}`);
  return parts.join('\n\n');
}

/** A field for each figure, then which aims there are and whether they are met. */
export function reportJson(report: Report): Readonly<Record<string, unknown>> {
  const { figures, broken, notes, short, seconds } = report;
  return {
    ...Object.fromEntries(figures.map(({ name, value }) => [name, value])),
    aims: figures.flatMap(figure =>
      figure.aim ? [{ figure: figure.name, ...figure.aim, reached: figure.value, met: isMet(figure) }] : [],
    ),
    short,
    seconds,
    ...(notes.length > 0 ? { notes } : {}),
    ...(Object.keys(broken).length > 0 ? { broken } : {}),
    sound: isSound(report),
    met: isSound(report) && figures.every(isMet),
  };
}

/** Whether nothing broke and every figure holds that must hold on every machine. */
export const isSound = ({ figures, broken }: Report): boolean =>
  Object.keys(broken).length === 0 && figures.every(figure => !figure.aim?.exact || isMet(figure));

const verdict = (figure: Figure): string => (figure.aim ? (isMet(figure) ? '✓' : '✗') : '');

function aimText({ aim }: Figure): string {
  if (!aim) return '';
  return { is: String(aim.value), least: `>= ${aim.value}`, most: `<= ${aim.value}` }[aim.sense];
}

function summary(figures: readonly Figure[], broken: Report['broken']): string {
  const missed = figures.filter(figure => !isMet(figure));
  if (missed.length === 0 && Object.keys(broken).length === 0) return 'Every aim is met.';
  const defects = missed.filter(({ aim }) => aim?.exact).map(({ name }) => name);
  const others = missed.filter(({ aim }) => !aim?.exact).map(({ name }) => name);
  return [
    ...(defects.length > 0 ? [`Must hold on every machine, and does not: ${defects.join(', ')}.`] : []),
    ...(others.length > 0
      ? [`Missed here, which a machine that does other work explains too: ${others.join(', ')}.`]
      : []),
  ].join(' ');
}

function shown(value: number): string {
  if (Number.isInteger(value)) return String(value);
  return Math.abs(value) < 10 ? value.toFixed(4) : value.toFixed(0);
}
