import { readFileSync } from 'node:fs';
import { request } from 'node:https';
import { type Config, inHome } from '../appliance/config.ts';
import type { Running } from '../appliance/home.ts';
import { KeyslotError } from '../foundation/errors.ts';
import type { Health } from '../wire/views.ts';

/** What `/readyz` of the ops listener says: no credentials are needed, and 503 is an answer. APPLIANCE_UNREACHABLE. */
export function readinessOf({ opsUrl }: Running, config: Config): Promise<Health> {
  const { promise, resolve, reject } = Promise.withResolvers<Health>();
  const unreachable = (cause: unknown) =>
    reject(new KeyslotError('APPLIANCE_UNREACHABLE', `Nothing answers at ${opsUrl}.`, { cause }));
  const ca = config.command ? readFileSync(inHome(config, config.command.ca)) : undefined;
  const asked = request(
    new URL('/readyz', opsUrl),
    { ...(ca ? { ca } : {}), timeout: answer_ms },
    response => {
      const chunks: Buffer[] = [];
      response.on('data', chunk => chunks.push(chunk));
      response.on('error', unreachable);
      response.on('end', () => {
        try {
          resolve(JSON.parse(Buffer.concat(chunks).toString()) as Health);
        } catch (error) {
          unreachable(error);
        }
      });
    },
  );
  asked.on('timeout', () => asked.destroy(new Error('no answer in time')));
  asked.on('error', unreachable);
  asked.end();
  return promise;
}

const answer_ms = 5_000;
