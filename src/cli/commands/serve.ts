import type { Command } from 'commander';
import { InvalidArgumentError } from 'commander';
import type { Config } from '../../appliance/config.ts';
import { createLog } from '../../appliance/logger.ts';
import { pageBackend, preparePageHome } from '../../appliance/page-environment.ts';
import { Supervisor } from '../../appliance/supervisor.ts';
import { configOf, type SharedOptions } from '../connection.ts';
import { print } from '../output.ts';

type Options = SharedOptions & { port?: number; opsPort?: number };

export function addServe(program: Command, shared: (command: Command) => Command): void {
  shared(program.command('serve'))
    .description('run the appliance until SIGTERM or Ctrl-C; SIGHUP reloads, SIGUSR2 drains')
    .option('--port <port>', 'listen here instead of listen.port; ops follows 1,000 above', portNumber)
    .option('--ops-port <port>', 'listen here instead of ops.port', portNumber)
    .action(serve);
}

async function serve(options: Options): Promise<void> {
  const config = withPorts(configOf(options), options);
  const log = createLog('supervisor');
  if (config.profile === 'development') log.warn({}, 'development profile: not for keys that matter');
  const backend = pageBackend();
  if (backend) await preparePageHome(backend, config, log);
  const stop = Promise.withResolvers<void>();
  // From before the start: a signal during it must not leave half an appliance behind.
  for (const signal of ['SIGTERM', 'SIGINT'] as const) process.on(signal, () => stop.resolve());
  let supervisor: Supervisor | undefined;
  process.on('SIGUSR2', () => supervisor?.drain());
  // Of a terminal that was closed it means the end, of anything else that the files are to be read again.
  const isOfTerminal = process.stdin.isTTY;
  process.on('SIGHUP', () => (isOfTerminal ? stop.resolve() : supervisor?.reload()));
  supervisor = await Supervisor.start(config, log, { reread: () => withPorts(configOf(options), options) });
  announce(supervisor, options.json === true);
  await stop.promise;
  log.info({}, 'stopping: answering what is in flight, then ending the logins');
  await supervisor[Symbol.asyncDispose]();
}

function announce({ url, opsUrl }: Supervisor, json: boolean): void {
  if (json) print(JSON.stringify({ url, opsUrl, pid: process.pid }));
  else print(`Keyslot serves ${url} (health on ${opsUrl}). Ctrl-C stops it.`);
}

function withPorts(config: Config, { port, opsPort }: Options): Config {
  const ops = opsPort ?? (port === undefined ? config.ops.port : port === 0 ? 0 : port + 1000);
  return {
    ...config,
    listen: { ...config.listen, port: port ?? config.listen.port },
    ops: { ...config.ops, port: ops },
  };
}

function portNumber(text: string): number {
  const port = Number(text);
  if (Number.isInteger(port) && port >= 0 && port <= 65535) return port;
  throw new InvalidArgumentError('A port is a number from 0 to 65535.');
}
