import { mkdirSync, writeFileSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { parseArgs } from 'node:util';
import { licensePage, productionLicenses, unacceptable } from './licenses.ts';
import { lockFaults, manifestFaults, readLock, readManifest, scriptFaults, wantingScripts } from './lock.ts';
import { productionSbom, sbomFaults } from './sbom.ts';

/**
 * scripts/sbom: checks the lock file, then writes `keyslot.cdx.json` and `licenses.md` into a folder. The status is 1
 * when a rule of the supply chain is broken; then nothing is written.
 */

const root = resolve(import.meta.dirname, '..', '..');
const { values } = parseArgs({ options: { out: { type: 'string' } } });
const out = resolve(values.out ?? join(root, 'var', 'supply-chain'));

const lock = readLock(root);
const manifest = readManifest(root);
const licenses = productionLicenses(lock);
const sbom = await productionSbom(root);
const faults = [
  ...lockFaults(lock),
  ...manifestFaults(manifest),
  ...scriptFaults(manifest, wantingScripts(root, lock)),
  ...unacceptable(licenses),
  ...sbomFaults(sbom, lock),
];
if (faults.length > 0) {
  for (const fault of faults) console.error(`keyslot: ${fault}`);
  process.exitCode = 1;
} else {
  mkdirSync(out, { recursive: true });
  writeFileSync(join(out, 'keyslot.cdx.json'), `${JSON.stringify(sbom, null, 2)}\n`);
  writeFileSync(join(out, 'licenses.md'), licensePage(licenses));
  console.log(
    `${sbom.components.length} packages: ${join(out, 'keyslot.cdx.json')}, ${join(out, 'licenses.md')}`,
  );
}
