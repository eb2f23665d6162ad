import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';

/** What a command said. */
export interface Output {
  readonly status: number | null;
  readonly stdout: string;
  readonly stderr: string;
}

/** Runs a command to its end, at most for `bound_s`. Throws with the end of what it said when it fails. */
export async function run(command: readonly string[], options: Options = {}): Promise<string> {
  const output = await outcome(command, options);
  if (output.status === 0) return output.stdout.trim();
  const said = `${output.stdout}${output.stderr}`.trim().split('\n').slice(-30).join('\n');
  const how = output.status === null ? `was ended after ${options.bound_s ?? bound_s} s` : 'failed';
  throw new Error(`${command.slice(0, 6).join(' ')} … ${how}:\n${said}`);
}

/** The same for a command that may fail. */
export async function outcome(command: readonly string[], options: Options = {}): Promise<Output> {
  const [file = '', ...args] = command;
  const child = spawn(file, args, { cwd: options.cwd, stdio: ['ignore', 'pipe', 'pipe'] });
  live.add(child);
  const texts = { stdout: '', stderr: '' };
  for (const name of ['stdout', 'stderr'] as const) {
    child[name].on('data', chunk => {
      texts[name] += String(chunk);
      options.said?.(String(chunk));
    });
  }
  const timer = setTimeout(() => child.kill('SIGKILL'), (options.bound_s ?? bound_s) * 1000);
  const [status] = (await once(child, 'close')) as [number | null];
  clearTimeout(timer);
  live.delete(child);
  return { status, ...texts };
}

export interface Options {
  readonly cwd?: string;
  readonly bound_s?: number;
  /** Hears everything as it comes. */
  said?(text: string): void;
}

/** Ends what is running, which then fails as if by itself: whoever waits for it tidies up. */
export function endRunning(): void {
  for (const child of live) child.kill('SIGTERM');
}

const live = new Set<ChildProcess>();

const bound_s = 60;
