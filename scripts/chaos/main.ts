import { mkdirSync, writeFileSync } from 'node:fs';
import { dirname } from 'node:path';
import { audit } from './audit.ts';
import { corrupted } from './corrupted.ts';
import { faults } from './faults.ts';
import type { Figure, Scenario } from './figure.ts';
import { type Flags, parsedFlags, usage } from './flags.ts';
import { groups } from './groups.ts';
import { kills } from './kills.ts';
import { latency } from './latency.ts';
import { overload } from './overload.ts';
import { pin } from './pin.ts';
import { isSound, type Report, reportJson, reportText } from './report.ts';

/**
 * `npm run chaos`: what Keyslot promises for the day on which its HSM fails, measured on that day. Each scenario has
 * an appliance of its own behind a PKCS#11 module that misbehaves; nothing of it is left, also after Ctrl-C, and what
 * was measured by then is told. The status is 1 when something does not hold that must hold on every machine.
 */
const scenarios: readonly Scenario[] = [faults, kills, corrupted, pin, groups, overload, latency, audit];

async function main(flags: Flags): Promise<boolean> {
  const began_ms = performance.now();
  const figures: Figure[] = [];
  const broken: Record<string, string> = {};
  const notes: string[] = [];
  for (const scenario of scenarios.filter(({ name }) => flags.only.includes(name))) {
    if (interrupted.signal.aborted) broken[scenario.name] = interruption();
    else await runOne(scenario, flags, { figures, broken, notes });
  }
  progress('');
  const seconds = Math.round((performance.now() - began_ms) / 100) / 10;
  const report: Report = { figures, broken, notes, short: flags.short, seconds };
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

interface Found {
  readonly figures: Figure[];
  readonly broken: Record<string, string>;
  readonly notes: string[];
}

/** Whatever the scenario started has ended when this returns. */
async function runOne(
  { name, run }: Scenario,
  { short }: Flags,
  { figures, broken, notes }: Found,
): Promise<void> {
  const say = (text: string) => progress(`${name}: ${text}`);
  const stack = new AsyncDisposableStack();
  const stopped = Promise.withResolvers<never>();
  stopped.promise.catch(() => undefined); // told to whoever waits; nobody may
  const stop = () => stopped.reject(new Error(interruption()));
  const limit_s = short ? short_s_max : long_s_max;
  const late = setTimeout(
    () => stopped.reject(new Error(`It took more than ${limit_s} s.`)),
    limit_s * 1_000,
  );
  interrupted.signal.addEventListener('abort', stop);
  strayed = stopped.reject;
  try {
    say('starting');
    const running = run({ short, stack, progress: say, note: text => notes.push(`${name}: ${text}`) });
    running.catch(() => undefined); // one that was interrupted fails when its appliance is taken away
    figures.push(...(await Promise.race([running, stopped.promise])));
  } catch (thrown) {
    broken[name] = thrown instanceof Error ? thrown.message : String(thrown);
    if (!interrupted.signal.aborted) console.error(thrown);
  } finally {
    clearTimeout(late);
    interrupted.signal.removeEventListener('abort', stop);
    say('stopping');
    await stack.disposeAsync();
  }
}

// What hangs must not hang whoever waits for the figures.
const short_s_max = 120;
const long_s_max = 3_600;

/** What is going on now, for somebody who watches; nothing in a pipe. */
function progress(text: string): void {
  if (process.stderr.isTTY) process.stderr.write(`\r\x1b[K${text}`);
}

/** A failure that nobody waits for ends its scenario, and not this process: it has an appliance to stop. */
let strayed: (thrown: unknown) => void = () => undefined;
process.on('unhandledRejection', thrown => strayed(thrown));

const interrupted = new AbortController();
const interruption = () => `Interrupted by ${String(interrupted.signal.reason)}.`;
for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) {
  process.on(signal, () => interrupted.abort(signal));
}

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
