import { spawn } from 'node:child_process';
import { join } from 'node:path';
import { startAppliance } from '../appliance.ts';

/**
 * The client of @solana/keychain-vault, unchanged. It has no setting for a CA, so Node is told of the one that made
 * the appliance's certificate, which it reads when it starts: the application is a process of its own.
 */

await using appliance = await startAppliance({ vaultTransit: true });
const application = spawn(process.execPath, [join(import.meta.dirname, 'pay.ts')], {
  stdio: ['ignore', 'inherit', 'inherit'],
  env: {
    ...process.env,
    NODE_EXTRA_CA_CERTS: appliance.files.ca,
    VAULT_ADDR: appliance.url,
    VAULT_TOKEN_FILE: appliance.files.token,
    TREASURY_ADDRESS: appliance.address,
  },
});
process.once('exit', () => application.kill());
process.exitCode = await new Promise<number>(done => application.on('exit', status => done(status ?? 1)));
