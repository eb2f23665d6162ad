import { readdirSync, readFileSync } from 'node:fs';

/** What Linux knows of the processes that are measured: whose children they are, their memory, their time. */

export interface Observed {
  readonly gateway: number;
  readonly custodian: number;
}

/** The two processes of an appliance: the children of `keyslot serve`, told apart by their entry. */
export function childrenOf(serve: number): Observed {
  const found = (entry: string): number => {
    const pid = childOf(serve, entry);
    if (pid === undefined) throw new Error(`The appliance has no ${entry}.`);
    return pid;
  };
  return { gateway: found('gateway-process'), custodian: found('custodian-process') };
}

/** One of them, or nothing while it is being started again. */
export function childOf(serve: number, entry: string): number | undefined {
  return readdirSync('/proc')
    .filter(name => /^\d+$/.test(name))
    .map(Number)
    .find(pid => parentOf(pid) === serve && text(pid, 'cmdline').includes(entry));
}

const parentOf = (pid: number): number | undefined => {
  const fields = statOf(pid);
  return fields === undefined ? undefined : Number(fields[1]);
};

/** Processor time of a process so far, all its threads together. */
export function cpu_s(pid: number): number {
  const fields = statOf(pid) ?? [];
  return (Number(fields[11] ?? 0) + Number(fields[12] ?? 0)) / ticksPerSecond;
}

/** Processor time of the whole machine so far, idle time left out. */
export function machineCpu_s(): number {
  const [user = 0, nice = 0, system = 0, , , irq = 0, softirq = 0, steal = 0] = readFileSync(
    '/proc/stat',
    'utf8',
  )
    .slice('cpu '.length, 200)
    .split('\n', 1)
    .join()
    .trim()
    .split(' ')
    .map(Number);
  return (user + nice + system + irq + softirq + steal) / ticksPerSecond;
}

const ticksPerSecond = 100; // sysconf(_SC_CLK_TCK) on every Linux that Node runs on

/** Resident memory. The least of several samples: what a collection has not yet freed is not a leak. */
export async function residentMemory(pids: Observed, during_ms: number): Promise<Observed> {
  const least = { gateway: Number.POSITIVE_INFINITY, custodian: Number.POSITIVE_INFINITY };
  for (let at = 0; at < samples; at += 1) {
    await new Promise(resolve => setTimeout(resolve, during_ms / samples));
    least.gateway = Math.min(least.gateway, resident_bytes(pids.gateway));
    least.custodian = Math.min(least.custodian, resident_bytes(pids.custodian));
  }
  return least;
}

const samples = 10;

function resident_bytes(pid: number): number {
  const kibibytes = /^VmRSS:\s+(\d+) kB$/m.exec(text(pid, 'status'))?.[1];
  if (kibibytes === undefined) throw new Error(`Process ${pid} has ended.`);
  return Number(kibibytes) * 1_024;
}

/** The fields of /proc/PID/stat behind the name, which may hold spaces; or nothing when the process has gone. */
function statOf(pid: number): readonly string[] | undefined {
  const stat = text(pid, 'stat');
  return stat === '' ? undefined : stat.slice(stat.lastIndexOf(')') + 2).split(' ');
}

function text(pid: number, name: string): string {
  try {
    return readFileSync(`/proc/${pid}/${name}`, 'utf8');
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (code === 'ENOENT' || code === 'ESRCH') return '';
    throw error;
  }
}
