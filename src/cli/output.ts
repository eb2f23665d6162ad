import { toKeyslotError } from '../foundation/errors.ts';

/** What a command prints: tables for people, one JSON document with `--json`. */

export const refused = 1;
export const misused = 2;

/** Rows under their headings, columns as wide as they need to be. */
export function table(headings: readonly string[], rows: readonly (readonly string[])[]): string {
  const widths = headings.map((heading, at) =>
    Math.max(heading.length, ...rows.map(row => (row[at] ?? '').length)),
  );
  const line = (cells: readonly string[]) =>
    cells.map((cell, at) => (at === cells.length - 1 ? cell : cell.padEnd(widths[at] ?? 0))).join('  ');
  return [line(headings), ...rows.map(line)].map(text => text.trimEnd()).join('\n');
}

/** Names and values, one a line. */
export function listing(entries: Readonly<Record<string, unknown>>): string {
  const width = Math.max(...Object.keys(entries).map(name => name.length));
  return Object.entries(entries)
    .filter(([, value]) => value !== undefined)
    .map(([name, value]) => `${name.padEnd(width)}  ${String(value)}`)
    .join('\n');
}

export const print = (text: string): void => console.log(text);
export const printJson = (value: unknown): void => console.log(JSON.stringify(value, null, 2));

/** One line that says what happened, one that says what to do. Sets the exit status. */
export function fail(thrown: unknown, json: boolean): void {
  const error = toKeyslotError(thrown);
  const { code, message: detail, violations } = error;
  const { remedy } = error.entry;
  process.exitCode = refused;
  if (json) {
    printJson({ error: { code, detail, remedy, ...(violations ? { violations } : {}) } });
    return;
  }
  console.error(`keyslot: ${code}: ${detail} ${remedy}`);
  for (const { rule, reason } of violations ?? []) console.error(`  ${rule}: ${reason}`);
  if (code === 'INTERNAL') console.error(error.cause);
}
