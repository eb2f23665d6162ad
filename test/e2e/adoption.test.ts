import { copyFileSync, readdirSync, readFileSync, truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { createdAtOf, deployed, expected, FieldFolder, type Vector } from '../appliance/field-folder.ts';
import { base64, type Client, type Home, prepareHome, type Reply, refusal, serve } from './appliance.ts';
import { isSignature } from './transactions.ts';

interface Wallet {
  readonly id: string;
  readonly publicKey: string;
  readonly createdAt: string;
  readonly provider: string;
  readonly label?: string;
}

const wallets = '/api/v1/wallets';
const dataOf = <T>({ text }: Reply): T => (JSON.parse(text) as { data: T }).data;
const listed = async (client: Client): Promise<Wallet[]> => dataOf<Wallet[]>(await client.get(wallets));

let home: Home;
let field: FieldFolder;

beforeEach(async () => {
  home = await prepareHome({ token: false });
  field = new FieldFolder();
});

afterEach(() => {
  field[Symbol.dispose]();
  home.remove();
});

function secret(name: string, text: string): { file: string } {
  writeFileSync(join(home.path, 'secrets', name), text, { mode: 0o600 });
  return { file: `secrets/${name}` };
}

const { config } = expected;
const slotOf = {
  'encrypted-file': () => ({
    engine: 'encrypted-file',
    pin: secret('encryption', config.encryptionSecret),
    settings: { envelope: 'agentic-wallet' },
  }),
  hsm: () => ({
    engine: 'hsm-sim',
    pin: secret('pin', config.hsmPin),
    moduleSecret: secret('module', config.hsmModuleSecret),
    settings: { slot: config.hsmSlotId, envelope: 'agentic-wallet' },
  }),
  kms: () => ({
    engine: 'kms',
    pin: secret('master', config.kmsMasterSecret),
    settings: { mode: 'simulated', keyId: config.kmsKeyId, envelope: 'agentic-wallet' },
  }),
  mpc: () => ({
    engine: 'mpc',
    pin: { nodes: config.mpcNodeSecrets.map((text, at) => secret(`node-${at}`, text)) },
    settings: { envelope: 'agentic-wallet' },
  }),
} as const;

/** An appliance whose only slot is of this backend, told to adopt the folder. */
function configure(backend: Vector['backend']): void {
  home.configure(yaml => {
    yaml.slots = [{ id: 'field', ...slotOf[backend]() }];
    yaml.compat = { agenticWallet: true, adopt: field.path };
  });
}

async function expectSigns(client: Client, { walletId, publicKey }: Vector): Promise<void> {
  const signed = await client.post(`${wallets}/${walletId}/sign`, { message: base64(walletId) });
  const { signatureBase58 } = dataOf<{ signatureBase58: string }>(signed);
  expect(await isSignature(publicKey, Buffer.from(walletId), signatureBase58)).toBe(true);
}

describe('adopting the data folder of the agentic-wallet program', () => {
  for (const [backend, provider] of [
    ['encrypted-file', 'local-dev'],
    ['hsm', 'hsm'],
    ['kms', 'kms'],
    ['mpc', 'mpc'],
  ] as const) {
    it(`serves its ${backend} wallets with their ids, addresses, dates and labels, and changes nothing there`, async () => {
      const vectors = deployed(backend);
      field.database(vectors.map((vector, at) => ({ ...vector, label: `label ${at}` })));
      const before = field.listing();
      configure(backend);
      await using appliance = await serve(home);
      const client = appliance.client();
      expect(await listed(client)).toMatchObject(
        vectors.map(({ walletId, publicKey }, at) => ({
          id: walletId,
          publicKey,
          provider,
          label: `label ${at}`,
          createdAt: createdAtOf(at),
        })),
      );
      for (const vector of vectors) await expectSigns(client, vector);
      const slot = await client.get('/v1/slots/field');
      expect(slot.json).toMatchObject({ state: 'open', findings: [] });
      expect(field.listing()).toEqual(before);
      client.close();
    });
  }

  it('is done once, keeps what was made since, and needs the folder no more', async () => {
    configure('encrypted-file');
    const vectors = deployed('encrypted-file');
    field.database(vectors);
    let made: Wallet;
    {
      await using first = await serve(home);
      const client = first.client();
      made = dataOf<Wallet>(await client.post(wallets, { label: 'made here' }));
      client.close();
    }
    const files = () =>
      readdirSync(join(home.path, 'keys', 'field'))
        .toSorted()
        .map(name => readFileSync(join(home.path, 'keys', 'field', name), 'base64'));
    const before = files();
    const ids = [...vectors.map(({ walletId }) => walletId), made.id];
    for (const adopt of [field.path, undefined]) {
      home.configure(yaml => {
        yaml.compat = { agenticWallet: true, ...(adopt ? { adopt } : {}) };
      });
      await using again = await serve(home);
      const client = again.client();
      expect((await listed(client)).map(({ id }) => id)).toEqual(ids);
      for (const vector of vectors) await expectSigns(client, vector);
      client.close();
    }
    expect(files()).toEqual(before);
  });

  it('leaves out a file that was swapped, and one that is damaged: the others work', async () => {
    const [swapped, damaged, good] = deployed('encrypted-file');
    if (!swapped || !damaged || !good) throw new TypeError('The vectors are three.');
    field.database([swapped, damaged, good]);
    copyFileSync(field.fileOf(`${good.walletId}.json`), field.fileOf(`${swapped.walletId}.json`));
    truncateSync(field.fileOf(`${damaged.walletId}.json`), 100);
    configure('encrypted-file');
    await using appliance = await serve(home);
    const client = appliance.client();
    expect((await listed(client)).map(({ id }) => id)).toEqual([good.walletId]);
    await expectSigns(client, good);
    for (const { walletId } of [swapped, damaged]) {
      const refused = await client.post(`${wallets}/${walletId}/sign`, { message: base64('x') });
      expect({ status: refused.status, code: refused.json.code }).toEqual({
        status: 404,
        code: 'KEY_UNKNOWN',
      });
    }
    const log = readFileSync(home.log, 'utf8')
      .split('\n')
      .filter(line => line.includes('a wallet was not adopted'))
      .map(line => JSON.parse(line) as { key: string; code: string });
    expect(new Map(log.map(({ key, code }) => [key, code]))).toEqual(
      new Map([
        [swapped.walletId, 'KEY_MISMATCH'],
        [damaged.walletId, 'KEY_FILE_MALFORMED'],
      ]),
    );
    const { json } = await client.get('/v1/slots/field');
    expect(json.findings).toEqual([{ key: swapped.walletId, problem: 'unknown' }]);
    client.close();
  });

  it('with another secret than that of the files refuses the start, and adopts with the right one then', async () => {
    field.database(deployed('encrypted-file'));
    configure('encrypted-file');
    secret('encryption', 'another secret');
    expect(await refusal(serve(home))).toBe('PIN_REFUSED');
    secret('encryption', config.encryptionSecret);
    await using appliance = await serve(home);
    const client = appliance.client();
    expect(await listed(client)).toHaveLength(3);
    client.close();
  });
});
