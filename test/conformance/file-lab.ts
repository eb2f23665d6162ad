import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll } from 'vitest';
import type { Engine } from '../../src/custody/engine.ts';
import { type SlotId, slotId } from '../../src/custody/ids.ts';
import { Secret } from '../../src/foundation/secret.ts';
import type { EngineUnderTest } from './engine-suite.ts';

/** The powers of every custody that keeps sealed files. */
export const allPowers = { generate: true, import: true, export: true, destroy: true } as const;

/**
 * Starts engines over one fresh folder, which is removed after the tests of the file. The folder itself is made
 * by the engine.
 */
export function fileLab(
  make: (slot: SlotId, folder: string) => Engine,
  pins: { pin: string; wrongPin: string } = { pin: 'correct horse', wrongPin: 'correct house' },
): () => Promise<EngineUnderTest> {
  const root = mkdtempSync(join(tmpdir(), 'keyslot-exam-'));
  afterAll(() => rmSync(root, { recursive: true, force: true }));
  const slot = slotId('exam');
  const start = (): EngineUnderTest => {
    const engine = make(slot, join(root, 'keys'));
    return {
      engine,
      slot,
      pin: () => Secret.fromText(pins.pin),
      wrongPin: () => Secret.fromText(pins.wrongPin),
      restart: async () => {
        await engine[Symbol.asyncDispose]();
        return start();
      },
      [Symbol.asyncDispose]: () => engine[Symbol.asyncDispose](),
    };
  };
  return async () => start();
}

/** The program's own form derives a key for each opening of a file: ten thousand signatures must not. */
export const pageForm = { envelope: 'agentic-wallet', unwrapCache_ms: 60_000 } as const;
