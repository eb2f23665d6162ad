import { OpenHouse, tokenOf } from '../test/gateway/open-house.ts';

// Every route of the API on 127.0.0.1, before a custodian with keys in memory, for scripts/fuzz-api. Says its URL, that of
// the ops listener, and the token of somebody who may do everything, and serves until it is told to end.
await using house = await OpenHouse.open();
process.stdout.write(`${await house.serve()} ${await house.serveOps()} ${tokenOf('alice')}\n`);
await new Promise<void>(done => {
  process.once('SIGTERM', () => done());
  process.once('SIGINT', () => done());
});
