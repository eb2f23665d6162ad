import { join } from 'node:path';
import { readConfig } from '../../src/appliance/config.ts';
import { createLog } from '../../src/appliance/logger.ts';
import { Supervisor } from '../../src/appliance/supervisor.ts';

/** `keyslot serve --json` with the custodian of `bare-custodian-process.ts`, on any free ports: the folder is the argument. */
const config = readConfig(process.argv[2] ?? '');
const anyPort = { ...config, listen: { ...config.listen, port: 0 }, ops: { ...config.ops, port: 0 } };
const stop = Promise.withResolvers<void>();
for (const signal of ['SIGTERM', 'SIGINT', 'SIGHUP'] as const) process.on(signal, () => stop.resolve());
const entry = join(import.meta.dirname, 'bare-custodian-process.ts');
await using supervisor = await Supervisor.start(anyPort, createLog('supervisor'), { entry });
console.log(JSON.stringify({ url: supervisor.url, opsUrl: supervisor.opsUrl, pid: process.pid }));
await stop.promise;
