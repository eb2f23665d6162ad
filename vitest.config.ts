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

/**
 * Rooms whose tests change nothing that is the process's own: no variables, no modules of devices, no functions of
 * Node. Their files share two processes and load what they test once; every other file has a process to itself.
 */
const shared = 'audit,client,custodian,e2e,foundation,gateway,policy,sealing,solana,store,wire';
const nevertheless = [
  'test/{audit,sealing,store}/{kill,kills}.test.ts', // to start a process takes longer from a large one
  'test/custodian/{metrics,migration-kill,migration-pairs,slot-groups,soft-hsm}.test.ts',
  'test/e2e/envelopes.test.ts',
  'test/gateway/{openapi-fuzz,ops,request-log,routes-policy}.test.ts',
];

export default defineConfig({
  test: {
    projects: [
      {
        extends: true,
        test: {
          name: 'shared',
          include: [`test/{${shared}}/**/*.test.ts`],
          exclude: nevertheless,
          isolate: false,
        },
      },
      {
        extends: true,
        // A PKCS#11 module reads its environment once per process and shares its login state: one process a file.
        test: {
          name: 'alone',
          include: ['test/*.test.ts', `test/!(${shared.replaceAll(',', '|')})/**/*.test.ts`, ...nevertheless],
        },
      },
    ],
    pool: 'forks',
    maxWorkers: 2,
    // Hundreds of processes are started; each would compile the same sources again.
    env: { NODE_COMPILE_CACHE: join(import.meta.dirname, 'node_modules', '.cache', 'compiled') },
    testTimeout: 60_000,
    hookTimeout: 60_000,
    reporters: ['default', count],
  },
});
