import { join, resolve } from 'node:path';
import { expect, it } from 'vitest';
import { run } from '../e2e/appliance.ts';

const interop = join(resolve(import.meta.dirname, '../..'), 'scripts', 'interop', 'run');

it('npm run interop says that nothing was examined where there is no cargo, and is no failure there', async () => {
  const environment = { CARGO: '/nowhere/cargo' };
  const { status, stdout, stderr } = await run(interop, ['--json'], { environment });
  expect(status).toBe(0);
  expect(JSON.parse(stdout.trim().split('\n').at(-1) ?? '')).toEqual({
    kryoptic: 'absent',
    reason: 'no cargo',
  });
  expect(stderr).toContain('cargo');
});
