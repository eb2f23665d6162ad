import { writeFileSync } from 'node:fs';

/**
 * Leaves no memory in a core file of this process, nor of any that is started from it from now on: core(5), "Controlling
 * which mappings are written to the core dump". Limits alone do not do that where the kernel pipes cores into a program.
 * False when the system has no such setting, or the process is not dumpable at all and may not change it.
 */
export function keepMemoryOutOfCores(): boolean {
  try {
    writeFileSync('/proc/self/coredump_filter', '0');
    return true;
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (code !== undefined && unavailable.has(code)) return false;
    throw error;
  }
}

const unavailable: ReadonlySet<string> = new Set(['ENOENT', 'EACCES', 'EPERM', 'EROFS']);
