import { defineConfig } from 'vitest/config';

/** Exams on tokens that are compiled first: `npm run interop`, which names the token, and not a part of `npm test`. */
export default defineConfig({
  test: {
    include: ['test/interop/**/*.exam.ts'],
    root: `${import.meta.dirname}/../..`,
    pool: 'forks', // a PKCS#11 module reads its environment once per process
    maxWorkers: 1,
    testTimeout: 60_000,
    hookTimeout: 60_000,
  },
});
