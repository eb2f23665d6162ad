import { join } from 'node:path';
import { defineConfig } from 'vitest/config';
import type { TestModule } from 'vitest/node';

/** The last line of a run, for machines: how many tests passed and failed. */
const count = {
  onTestRunEnd(modules: readonly TestModule[]): void {
    const states = modules.flatMap(module =>
      [...module.children.allTests()].map(test => test.result().state),
    );
    const of = (state: string) => states.filter(each => each === state).length;
    console.log(`${of('passed')} passed, ${of('failed')} failed, ${of('skipped')} skipped`);
  },
};

export default defineConfig({
  test: {
    include: ['test/**/*.test.ts'],
    // A PKCS#11 module reads its environment once per process and shares its login state: one process a file.
    pool: 'forks',
    maxWorkers: 2,
    // Hundreds of processes are started; each would compile the same sources again.
    env: { NODE_COMPILE_CACHE: join(import.meta.dirname, 'node_modules', '.cache', 'compiled') },
    testTimeout: 60_000,
    hookTimeout: 60_000,
    reporters: ['default', count],
  },
});
