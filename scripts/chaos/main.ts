import { mkdirSync, writeFileSync } from 'node:fs';
import { dirname } from 'node:path';
import { audit } from './audit.ts';
import { corrupted } from './corrupted.ts';
import { faults } from './faults.ts';
import type { Scenario } from './figure.ts';
import { type Flags, parsedFlags, usage } from './flags.ts';
import { groups } from './groups.ts';
import { kills } from './kills.ts';
import { latency } from './latency.ts';
import { overload } from './overload.ts';
import { pin } from './pin.ts';
import { isSound, type Report, reportJson, reportText } from './report.ts';
import { runAll } from './scenarios.ts';

/**
 * `npm run chaos`: what Keyslot promises for the day on which its HSM fails, measured on that day. Each scenario has
 * an appliance of its own behind a PKCS#11 module that misbehaves; nothing of it is left, also after Ctrl-C, and what
 * was measured by then is told. The status is 1 when something does not hold that must hold on every machine.
 */
const scenarios: readonly Scenario[] = [faults, kills, corrupted, pin, groups, overload, latency, audit];

async function main(flags: Flags): Promise<boolean> {
  const began_ms = performance.now();
  const wanted = scenarios.filter(({ name }) => flags.only.includes(name));
  const found = await runAll(wanted, flags.short, flags.short ? short_s_max : long_s_max);
  const seconds = Math.round((performance.now() - began_ms) / 100) / 10;
  const report: Report = { ...found, short: flags.short, seconds };
  const json = reportJson(report);
  mkdirSync(dirname(flags.result), { recursive: true });
  writeFileSync(
    flags.result,
    `${JSON.stringify({ measured: new Date().toISOString(), ...json }, null, 2)}\n`,
  );
  console.log(reportText(report));
  if (flags.json) console.log(JSON.stringify(json));
  return isSound(report);
}

// What hangs must not hang whoever waits for the figures.
const short_s_max = 120;
const long_s_max = 3_600;

const names = scenarios.map(({ name }) => name);
/** A minute is too short for a long audit log, and one in memory has nothing of an HSM. */
const ordinary = { long: names, short: names.filter(name => name !== 'audit') };
let flags: Flags;
try {
  flags = parsedFlags(process.argv.slice(2), names, ordinary);
} catch (thrown) {
  console.error(`chaos: ${(thrown as Error).message}\n${usage(names)}`);
  process.exit(2);
}
process.exit((await main(flags)) ? 0 : 1);
