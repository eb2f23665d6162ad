import { spawn } from 'node:child_process';
import { randomInt } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { describe, expect, it } from 'vitest';
import { lineHash } from '../../src/audit/record.ts';
import { AuditLab, flawOf } from './lab.ts';

const entry = fileURLToPath(new URL('./kill-child.ts', import.meta.url));

interface Acknowledged {
  readonly seq: number;
  readonly hash: string;
  readonly requestId: string;
}

/** Starts a process that appends, and kills it a moment after its first acknowledgement. */
async function killedWriter(lab: AuditLab, name: string): Promise<readonly Acknowledged[]> {
  const child = spawn(process.execPath, [entry, lab.path(), name], { stdio: ['ignore', 'pipe', 'inherit'] });
  let said = '';
  let dying: Promise<void> | undefined;
  for await (const chunk of child.stdout) {
    said += chunk;
    dying ??= sleep(randomInt(0, 25)).then(() => void child.kill('SIGKILL'));
  }
  await dying;
  return said
    .split('\n')
    .slice(0, -1) // whatever stands before the last line break was said in full
    .map(line => line.split(' '))
    .map(([seq = '', hash = '', requestId = '']) => ({ seq: Number(seq), hash, requestId }));
}

describe('a process that is killed while it writes', () => {
  it('has lost no record that it acknowledged, forty times', async () => {
    const lane = async (name: string): Promise<void> => {
      await using lab = new AuditLab();
      const acknowledged: Acknowledged[] = [];
      for (let round = 0; round < 20; round += 1) {
        acknowledged.push(...(await killedWriter(lab, `${name}-${round}`)));
      }
      const log = await lab.open();
      const lines = lab.lines();
      expect(flawOf(lines)).toBeUndefined();
      for (const { seq, hash, requestId } of acknowledged) {
        expect(lineHash(lines[seq] ?? '').toString('hex')).toBe(hash);
        expect(JSON.parse(lines[seq] ?? '').requestId).toBe(requestId);
      }
      expect(acknowledged.length).toBeGreaterThan(40);
      expect(lines.filter(line => line.includes('"type":"boot"'))).toHaveLength(21);
      expect(log.status().size).toBe(lines.length);
    };
    await Promise.all([lane('a'), lane('b')]);
  });
});

describe('a process that may write files of a certain size only', () => {
  it('is refused when a segment reaches it, and everything that was acknowledged is there', async () => {
    await using lab = new AuditLab();
    // 16 blocks of 512 bytes: less than a segment of 64 such records needs.
    const limited = spawn(
      'sh',
      ['-c', 'ulimit -f 16; exec "$0" "$@"', process.execPath, entry, lab.path(), 'l', '60'],
      {
        stdio: ['ignore', 'pipe', 'inherit'],
      },
    );
    let said = '';
    for await (const chunk of limited.stdout) said += chunk;
    const told = said.split('\n').slice(0, -1);
    const refused = told.filter(line => line.startsWith('refused'));
    expect(refused.length).toBeGreaterThan(10);
    expect(new Set(refused)).toEqual(new Set(['refused AUDIT_UNAVAILABLE full']));
    const log = await lab.open();
    const lines = lab.lines();
    expect(flawOf(lines)).toBeUndefined();
    for (const line of told.filter(each => !each.startsWith('refused'))) {
      const [seq = '', hash] = line.split(' ');
      expect(lineHash(lines[Number(seq)] ?? '').toString('hex')).toBe(hash);
    }
    expect(log.status().state).toBe('ok');
  });
});
