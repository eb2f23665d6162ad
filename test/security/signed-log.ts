import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { slotId } from '../../src/custody/ids.ts';
import { createMemoryEngine } from '../../src/engines/memory/index.ts';
import { decodeBase58 } from '../../src/foundation/base58.ts';
import { publicKeyFromSeed } from '../../src/foundation/ed25519.ts';
import { pinText } from '../custodian/device.ts';
import { Lab } from '../custodian/lab.ts';
import { memo, wireOf } from '../policy/lab.ts';
import { seed } from './lab.ts';

/** The audit log of a custodian that has signed much and has ended; its checkpoints are signed and witnessed. */
export class SignedLog implements AsyncDisposable {
  readonly folder: string;
  readonly publicKey: Uint8Array;
  /** The notes that the witness keeps. */
  readonly witnessed: readonly string[];
  readonly #opened: AsyncDisposableStack;

  private constructor(
    lab: Lab,
    { publicKey, witness, opened }: { publicKey: Uint8Array; witness: string; opened: AsyncDisposableStack },
  ) {
    this.folder = lab.auditFolder;
    this.publicKey = publicKey;
    this.witnessed = readFileSync(witness, 'utf8')
      .split('\n')
      .slice(0, -1)
      .map(line => (JSON.parse(line) as { note: string }).note);
    this.#opened = opened;
  }

  static async write(signatures: number): Promise<SignedLog> {
    await using opened = new AsyncDisposableStack();
    const slots = [];
    for (const id of ['main', 'audit']) {
      slots.push(...(await opened.use(createMemoryEngine(slotId(id))).slots()));
    }
    const key = { slot: slotId('audit'), id: 'audit' };
    const elsewhere = mkdtempSync(join(tmpdir(), 'keyslot-witness-'));
    opened.defer(() => rmSync(elsewhere, { recursive: true, force: true }));
    const witness = join(elsewhere, 'witness.jsonl');
    const lab = opened.use(
      await Lab.with(
        { audit: { key, witnesses: [{ file: witness }] } },
        ...slots.map(slot => ({ slot, source: () => pinText })),
      ),
    );
    await lab.custodian.openUnattended();
    await lab.ask('operator', 'import-key', { key: 'wallet', slot: 'main' }, { bytes: [seed()] });
    await sign(lab, signatures);
    await lab.custodian.audit.checkpoint();
    const publicKey = decodeBase58((await lab.ask('auditor', 'audit-status', {})).output.publicKey ?? '');
    if (!publicKey) throw new TypeError('The log is not signed.');
    await lab.custodian[Symbol.asyncDispose]();
    return new SignedLog(lab, { publicKey, witness, opened: opened.move() });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#opened.disposeAsync();
  }
}

/** Transactions in batches of a hundred, a few at a time: of these the log has all that a verifier needs. */
async function sign(lab: Lab, signatures: number): Promise<void> {
  let next = 0;
  const lane = async () => {
    for (let at = next; at < signatures; at = next) {
      const count = Math.min(batch_items, signatures - at);
      next = at + count;
      const bytes = Array.from({ length: count }, (_, item) =>
        wireOf([memo(`payment ${at + item}`)], { payer }),
      );
      const input = { key: 'wallet', items: bytes.map(() => 'transaction' as const) };
      const reply = await lab.ask('signer', 'sign-batch', input, { bytes });
      if (reply.bytes?.length !== 2 * count) throw new TypeError('Not all of them were signed.');
    }
  };
  await Promise.all(Array.from({ length: 4 }, lane));
}

const batch_items = 100;
const payer = publicKeyFromSeed(seed());
