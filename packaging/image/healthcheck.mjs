import { readFileSync } from 'node:fs';
import { get } from 'node:https';
import { join } from 'node:path';

/**
 * Asks the appliance of $KEYSLOT_HOME how it is: `healthcheck.mjs [/healthz|/readyz]`, default /healthz. The status is
 * 0 when the answer is 200, else 1. It reads where the appliance listens and no secret, and sends none; so it does
 * not matter that it takes whatever certificate is presented, which may be for another name than 127.0.0.1.
 */

const home = process.env.KEYSLOT_HOME ?? '/var/lib/keyslot';
const [, , path = '/healthz'] = process.argv;

const { opsUrl } = JSON.parse(readFileSync(join(home, 'state', 'running.json'), 'utf8'));
const url = new URL(path, opsUrl);
// It listens on every address: any of its own will do.
if (['0.0.0.0', '[::]'].includes(url.hostname)) url.hostname = '127.0.0.1';

get(url, { rejectUnauthorized: false, timeout: 3_000 }, response => {
  response.resume();
  process.exitCode = response.statusCode === 200 ? 0 : 1;
})
  .on('timeout', function () {
    this.destroy(new Error('no answer within 3 s'));
  })
  .on('error', error => {
    console.error(`keyslot: ${url}: ${error.message}`);
    process.exitCode = 1;
  });
