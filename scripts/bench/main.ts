import { benchEngines } from './engines.ts';
import { type Flags, parsedFlags, usage } from './flags.ts';
import { measure } from './measurement.ts';
import { aimsOf, reportText } from './report.ts';

/**
 * `npm run bench`: how fast Keyslot signs end to end over mTLS, as a ratio to what the same PKCS#11 module does
 * in a bare loop on the same machine in the same run. It makes a token, certificates and an appliance of its
 * own, and leaves nothing behind, also when it is interrupted.
 */
async function main(flags: Flags): Promise<void> {
  await using stack = new AsyncDisposableStack();
  if (flags.engines) {
    await Promise.race([benchEngines(flags, stack, progress), interruption()]);
    return;
  }
  const report = await Promise.race([measure(flags, stack, progress), interruption()]);
  progress('stopping');
  await stack.disposeAsync();
  progress('');
  console.log(reportText(report));
  if (flags.json) console.log(JSON.stringify({ ...report, aims: aimsOf(report) }));
}

/** What is going on now, for somebody who watches; nothing in a pipe. */
function progress(text: string): void {
  if (process.stderr.isTTY) process.stderr.write(`\r\x1b[K${text}`);
}

/** Fails when somebody asks to stop, so that whatever runs is ended on the way out. */
function interruption(): Promise<never> {
  const { promise, reject } = Promise.withResolvers<never>();
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) {
    process.on(signal, () => reject(new Error(`Interrupted by ${signal}.`)));
  }
  return promise;
}

let flags: Flags;
try {
  flags = parsedFlags(process.argv.slice(2));
} catch (thrown) {
  console.error(`bench: ${(thrown as Error).message}\n${usage}`);
  process.exit(2);
}
try {
  await main(flags);
  process.exit(0);
} catch (thrown) {
  progress('');
  console.error(thrown);
  process.exit(1);
}
