import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join, resolve } from 'node:path';
import { expect, it } from 'vitest';
import { keyslot, run } from './e2e/appliance.ts';

const pages = resolve(import.meta.dirname, '../docs/hsm');
const page = (name: string): string => readFileSync(join(pages, `${name}.md`), 'utf8');

it('the page on SoftHSM holds what it says: its commands make, examine, back up and restore a token', async () => {
  const folder = mkdtempSync(join(tmpdir(), 'keyslot-softhsm-page-'));
  try {
    const pins = { so: 'officer-of-the-page', user: 'user-of-the-page' };
    mkdirSync(join(folder, 'bin'));
    // The vendor's tool asks for PINs on a terminal; here they are given to it.
    const util = `#!/bin/sh\nexec /usr/bin/softhsm2-util "$@" --so-pin ${pins.so} --pin ${pins.user}\n`;
    writeFileSync(join(folder, 'bin', 'softhsm2-util'), util, { mode: 0o700 });
    const [make, ...others] = [...page('softhsm2').matchAll(/^```sh\n([\s\S]*?)^```/gm)].map(
      ([, text]) => text,
    );
    expect(others).toHaveLength(2);
    const pinFile = `(umask 077; echo ${pins.user} > secrets/user.pin)`;
    const script = ['set -euo pipefail', make, pinFile, ...others].join('\n');
    const PATH = [join(folder, 'bin'), dirname(keyslot), process.env.PATH].join(':');
    const ran = await run('bash', ['-c', script], {
      cwd: folder,
      environment: { PATH, SOFTHSM2_CONF: undefined },
    });
    expect({ status: ran.status, stderr: ran.stderr }).toEqual({ status: 0, stderr: '' });
    // By its lists, tried, and tried after the restore: the same token.
    expect(ran.stdout.match(/^verdict +native/gm)).toHaveLength(3);
    expect(new Set(ran.stdout.match(/serial [0-9a-f]+/g)).size).toBe(1);
    expect(ran.stdout).not.toContain(pins.user);
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
});

it('the pages on hardware say at the top that it was not there, and mark what was read only', () => {
  for (const name of ['aws-cloudhsm', 'yubihsm2']) {
    const [, first = ''] = page(name).split('\n\n');
    expect(first, name).toMatch(/^\*\*Nothing on this page was run on .*°/s);
    expect(page(name).match(/°/g)?.length, name).toBeGreaterThan(20);
  }
});
