import { readFileSync } from 'node:fs';

/** The table of docs/chaos.md, from a result file: `node scripts/chaos/measured.ts var/chaos/long.json`. */

interface Result {
  readonly measured: string;
  readonly seconds: number;
  readonly short: boolean;
  readonly aims: readonly {
    readonly figure: string;
    readonly sense: 'is' | 'least' | 'most';
    readonly value: number;
    readonly reached: number;
    readonly met: boolean;
  }[];
}

const { measured, seconds, short, aims } = JSON.parse(
  readFileSync(process.argv[2] ?? 'var/chaos/long.json', 'utf8'),
) as Result;
const signs = { is: '', least: 'at least ', most: 'at most ' };
const rounded = (value: number) =>
  Number(value.toPrecision(4)).toLocaleString('en', { maximumFractionDigits: 4 });
console.log('| figure | value | aim | |\n| --- | --- | --- | --- |');
for (const { figure, sense, value, reached, met } of aims) {
  const aim = `${signs[sense]}${rounded(value)}`;
  console.log(`| \`${figure}\` | ${rounded(reached)} | ${aim} | ${met ? 'met' : '**missed**'} |`);
}
console.log(
  `\n${short ? 'Short' : 'Long'} form, ${measured.slice(0, 10)}, ${Math.round(seconds / 60)} minutes.`,
);
