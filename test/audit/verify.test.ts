import { describe, expect, it } from 'vitest';
import { manifestName } from '../../src/audit/pruning.ts';
import { type AuditRecord, canonicalLine } from '../../src/audit/record.ts';
import { verifyAuditLog } from '../../src/audit/verify.ts';
import { memoryFiles } from '../../src/audit/verify-files.ts';
import type { AuditVerdict, TamperClass } from '../../src/audit/verify-findings.ts';
import {
  Dice,
  type Files,
  forge,
  lifeOf,
  linesIn,
  notesOf,
  type Plan,
  signedNote,
  signerOf,
  withLines,
} from './verify-forge.ts';

const auditKey = signerOf('audit');
const wallet = signerOf('wallet');
const publicKeys = [auditKey.publicKey];

const content = lifeOf(wallet, { boots: 4, length: 44, seed: 3 });
const plan: Plan = {
  node: 'keyslot',
  records: 8,
  content,
  sizes: [9, 16, 31, 32, content.length],
  signer: auditKey,
};
const log: Files = forge(plan);
const segments = [...log.keys()].filter(name => name.startsWith('segment-'));
const times = 1_000;

const verify = (files: Files, witnessed?: readonly string[], keys: readonly Uint8Array[] = publicKeys) =>
  verifyAuditLog({ files: memoryFiles(files), publicKeys: keys, ...(witnessed ? { witnessed } : {}) });

/** Tampers again and again, each time in another way, and counts what the verifier makes of it. */
async function classesOf(
  tamper: (dice: Dice, time: number) => Files,
  witnessed?: readonly string[],
): Promise<Partial<Record<TamperClass | 'nothing', number>>> {
  const classes: Partial<Record<TamperClass | 'nothing', number>> = {};
  for (let time = 0; time < times; time += 1) {
    const { finding } = await verify(tamper(new Dice(time * 7_919 + 1), time), witnessed);
    const found = finding?.class ?? 'nothing';
    classes[found] = (classes[found] ?? 0) + 1;
  }
  return classes;
}

/** All record lines, to be put back into segments of the same sizes as before as far as they go. */
const recordLines = (files: Files): { name: string; lines: string[] }[] =>
  segments.map(name => ({ name, lines: linesIn(files, name) }));

const someLine = (dice: Dice): { name: string; lines: string[]; at: number } => {
  const name = dice.one(segments);
  const lines = linesIn(log, name);
  return { name, lines, at: 1 + dice.below(lines.length - 1) };
};

/** Another value of the same type in one field of a record. */
function changed(record: AuditRecord, dice: Dice): AuditRecord {
  const field = dice.one(
    (['utc', 'mono_ms', 'actor', 'key', 'message', 'code', 'charges', 'detail'] as const).filter(
      each => record[each] !== undefined,
    ),
  );
  const hex = dice
    .below(2 ** 31)
    .toString(16)
    .padStart(64, '0');
  const values = {
    utc: new Date(1_600_000_000_000 + dice.below(2 ** 31)).toISOString(),
    mono_ms: record.mono_ms + 1 + dice.below(1_000),
    actor: 'somebody',
    key: 'other',
    message: hex,
    code: 'KEY_UNKNOWN',
    charges: [],
    detail: { version: '9' },
  };
  return { ...record, [field]: values[field] };
}

const parsed = (line: string): AuditRecord => JSON.parse(line) as AuditRecord;

describe('a log that nobody touched', () => {
  it('is in order, with what was checked', async () => {
    const verdict = await verify(log, notesOf(log));
    expect(verdict).toMatchObject({
      ok: true,
      finding: undefined,
      warnings: [],
      node: 'keyslot',
      tamperEvidence: 'witnessed',
    });
    const intents = content.filter(({ type }) => type === 'intent').length;
    expect(verdict.checked).toMatchObject({
      first: 0,
      size: content.length,
      boots: 4,
      intents,
      results: intents,
    });
    expect(verdict.checked).toMatchObject({
      checkpoints: plan.sizes.length,
      signed: content.length,
      witnessed: content.length,
    });
    expect(verdict.checked.signatures).toBeGreaterThan(3);
  });

  it('proves less without a key, and says so', async () => {
    const verdict = await verify(log, undefined, []);
    expect(verdict).toMatchObject({ ok: true, tamperEvidence: 'chain', checked: { signed: 0 } });
    expect(verdict.warnings).toHaveLength(1);
  });

  it('may be living: an unfinished last line, open intents and a tail without checkpoint are warnings', async () => {
    const open = { ...plan, content: content.slice(0, -1), sizes: [9, 16] };
    const living = forge(open);
    const last = segments.at(-1) ?? '';
    const torn = new Map([
      ...living,
      [last, Buffer.concat([living.get(last) ?? Buffer.alloc(0), Buffer.from('{"v":1,')])],
    ]);
    const verdict = await verify(torn);
    expect(verdict.ok).toBe(true);
    expect(verdict.checked).toMatchObject({ size: content.length - 1, signed: 16 });
    expect(verdict.warnings.length).toBeGreaterThan(1);
  });
});

describe(`each kind of tampering, ${times} times`, () => {
  it('a byte of a segment', async () => {
    const classes = await classesOf(dice => {
      const name = dice.one(segments);
      const bytes = Buffer.from(log.get(name) ?? '');
      const at = dice.below(bytes.length - 1); // the last byte of the log is its own case below
      bytes[at] = (bytes[at] ?? 0) ^ (1 + dice.below(255));
      return new Map([...log, [name, bytes]]);
    });
    expect(classes).toEqual({ edited: times });
  });

  it('a field, in a line that is in canonical form again', async () => {
    const classes = await classesOf(dice => {
      const { name, lines, at } = someLine(dice);
      lines[at] = canonicalLine(changed(parsed(lines[at] ?? ''), dice));
      return withLines(log, name, lines);
    });
    expect(classes).toEqual({ edited: times });
  });

  it('a field, with chain, headers and roots made again, which takes no key', async () => {
    const classes = await classesOf(dice => {
      const at = dice.below(content.length);
      const rewritten = content.map((record, seq) => (seq === at ? changed(record, dice) : record));
      return new Map([...forge({ ...plan, content: rewritten, sizes: [] }), ...checkpointFiles(log)]);
    });
    expect(classes).toEqual({ edited: times });
  });

  it('a line, a block of lines, or a segment is deleted', async () => {
    const classes = await classesOf((dice, time) => {
      if (time % 4 === 0) {
        const files = new Map(log);
        files.delete(segments[dice.below(segments.length - 1)] ?? '');
        return files;
      }
      const name = segments[dice.below(segments.length - 1)] ?? '';
      const lines = linesIn(log, name);
      const at = 1 + dice.below(lines.length - 1);
      lines.splice(at, 1 + dice.below(lines.length - at));
      return withLines(log, name, lines);
    });
    expect(classes).toEqual({ deleted: times });
  });

  it('lines or segments change places', async () => {
    const classes = await classesOf((dice, time) => {
      if (time % 4 === 0) {
        const one = dice.below(segments.length);
        const other = (one + 1 + dice.below(segments.length - 1)) % segments.length;
        const [first = '', second = ''] = [segments[one], segments[other]];
        return new Map([
          ...log,
          [first, log.get(second) ?? Buffer.alloc(0)],
          [second, log.get(first) ?? Buffer.alloc(0)],
        ]);
      }
      const files = recordLines(log);
      const places = files.flatMap(({ lines }, file) =>
        lines.slice(1).map((_, at) => ({ file, at: at + 1 })),
      );
      const one = dice.below(places.length);
      const other = (one + 1 + dice.below(places.length - 1)) % places.length;
      const [from, to] = [places[one], places[other]];
      const [source, target] = [files[from?.file ?? 0], files[to?.file ?? 0]];
      if (!from || !to || !source || !target) throw new Error('There are no such lines.');
      [source.lines[from.at], target.lines[to.at]] = [target.lines[to.at] ?? '', source.lines[from.at] ?? ''];
      return files.reduce((all, { name, lines }) => withLines(all, name, lines), log);
    });
    expect(classes).toEqual({ reordered: times });
  });

  it('a line stands twice, or a second one claims its place', async () => {
    const classes = await classesOf((dice, time) => {
      const { name, lines, at } = someLine(dice);
      const line = lines[at] ?? '';
      const copy = time % 2 === 0 ? line : canonicalLine(changed(parsed(line), dice));
      const later = at + 1 + dice.below(lines.length - at);
      lines.splice(time % 2 === 0 ? later : at + 1, 0, copy);
      return withLines(log, name, lines);
    });
    expect(classes).toEqual({ forked: times });
  });

  it('the end is cut off, and the checkpoints are left', async () => {
    const classes = await classesOf((dice, time) =>
      cut(log, dice.below(content.length - 1) + 1, time % 3 === 0 ? dice : undefined),
    );
    expect(classes).toEqual({ truncated: times });
  });

  it('everything is put back to an earlier state, which only the witness can tell', async () => {
    const states = Array.from({ length: content.length - 1 }, (_, at) => {
      const size = at + 1;
      return forge({
        ...plan,
        content: content.slice(0, size),
        sizes: [...plan.sizes.filter(each => each < size), size],
      });
    });
    expect(await classesOf(dice => dice.one(states), notesOf(log))).toEqual({ 'rolled-back': times });
  });

  it('a checkpoint is signed by somebody else, or its signature is changed', async () => {
    const intruder = signerOf('intruder');
    const classes = await classesOf((dice, time) => {
      const name = dice.one([...checkpointFiles(log).keys()]);
      const lines = linesIn(log, name);
      const at = dice.below(lines.length);
      const { note } = JSON.parse(lines[at] ?? '') as { note: string };
      const text = note.slice(0, note.indexOf('\n\n') + 1);
      const line = Buffer.from((note.split(' ').at(-1) ?? '').trim(), 'base64');
      line[4 + dice.below(64)] = (line[10] ?? 0) ^ (1 + dice.below(200));
      lines[at] = JSON.stringify({
        note:
          time % 2 === 0
            ? signedNote(text, 'keyslot', intruder)
            : `${text}\n— keyslot/keyslot ${line.toString('base64')}\n`,
      });
      return withLines(log, name, lines);
    });
    expect((classes['bad-signature'] ?? 0) + (classes.nothing ?? 0)).toBe(times);
    expect(classes.nothing ?? 0).toBeLessThan(times / 50); // a byte that became what it was before
  });

  it('two machines went on from one snapshot, and their lines are joined', async () => {
    const life = lifeOf(wallet, { boots: 4, length: 44, seed: 3 });
    const since = life.findLastIndex(({ type }) => type === 'boot');
    const twin = life.map((record, seq) => (seq < since ? record : { ...record, boot: 'f'.repeat(32) }));
    const other = forge({ ...plan, content: twin });
    const classes = await classesOf(dice => {
      const from = since + 2 + dice.below(content.length - since - 2);
      return segments.reduce((all, name) => {
        const [header = '', ...mine] = linesIn(log, name);
        const theirs = linesIn(other, name).slice(1);
        const joined = mine.map((line, at) => (parsed(line).seq < from ? line : (theirs[at] ?? '')));
        const fits = parsed(mine[0] ?? '{}').seq >= from ? (linesIn(other, name)[0] ?? '') : header;
        return withLines(all, name, [fits, ...joined]);
      }, log);
    });
    expect(classes).toEqual({ forked: times });
  });

  it('an insider with the audit key leaves out an intent or a result, or lets a result speak of another key', async () => {
    const signers = content.flatMap(({ intent, outcome, seq }) =>
      outcome === 'ok' && intent !== undefined && seq < 32 ? [{ intent, seq }] : [],
    );
    const plans = signers.flatMap(({ intent, seq }) => [
      without(content, intent),
      without(content, seq),
      content.map(record => (record.seq === seq ? { ...record, key: 'other' } : record)),
      content.map(record => (record.seq === seq ? { ...record, intent: 0 } : record)),
    ]);
    for (const each of plans) {
      const sizes = [...plan.sizes.filter(size => size < each.length), each.length];
      expect((await verify(forge({ ...plan, content: each, sizes }))).finding?.class).toBe('orphan-intent');
    }
    expect(plans.length).toBeGreaterThan(20);
  });
});

describe('what is beside the records', () => {
  it('every header says what came before it, and nothing of it can be changed', async () => {
    for (const name of segments) {
      const [header = '', ...lines] = linesIn(log, name);
      for (const [from, to] of [
        ['"node":"keyslot"', '"node":"keyslos"'],
        ['"records":8', '"records":4'],
        ['"open":[', '"open":[0'],
        ['"prev":"', '"prev":"0'],
      ] as const) {
        const { finding } = await verify(withLines(log, name, [header.replace(from, to), ...lines]));
        expect(finding?.class, `${name} ${to}`).toBe('edited');
      }
    }
  });

  it('a checkpoint that is missing, moved or there twice', async () => {
    const name = 'checkpoints-000000000024.jsonl';
    const [first = '', second = ''] = linesIn(log, name);
    const classOf = async (lines: string[]) => (await verify(withLines(log, name, lines))).finding?.class;
    expect(await classOf([first, second])).toBeUndefined();
    expect(await classOf([second])).toBe('deleted');
    expect(await classOf([second, first])).toBe('reordered');
    expect(await classOf([first, first, second])).toBe('forked');
    expect(await classOf([first, second.slice(0, -3)])).toBe('edited');
  });

  it('two checkpoints of one size are two histories', async () => {
    const other = forge({
      ...plan,
      content: content.map(record => ({ ...record, boot: `1${record.boot}` })),
    });
    const name = 'checkpoints-000000000024.jsonl';
    const [mine = '', ...rest] = linesIn(log, name);
    const [theirs = ''] = linesIn(other, name);
    expect((await verify(withLines(log, name, [mine, theirs, ...rest]))).finding?.class).toBe('forked');
    expect((await verify(withLines(log, name, [theirs, ...rest]))).finding?.class).toBe('forked');
    expect((await verify(log, notesOf(other))).finding).toMatchObject({ class: 'forked', file: 'witness' });
  });

  it('checkpoints that somebody took away altogether, or left without a signature', async () => {
    const bare = new Map([...log].filter(([name]) => name.startsWith('segment-')));
    expect((await verify(bare)).finding?.class).toBe('bad-signature');
    expect((await verify(forge({ ...plan, signer: undefined }))).finding?.class).toBe('bad-signature');
    expect((await verify(bare, undefined, [])).ok).toBe(true);
  });

  it('no witness, and log and checkpoints cut off together: that is not found, which is what witnesses are for', async () => {
    const earlier = forge({ ...plan, content: content.slice(0, 32), sizes: [9, 16, 31, 32] });
    expect((await verify(earlier)).ok).toBe(true);
    expect((await verify(earlier, notesOf(log))).finding?.class).toBe('rolled-back');
  });

  it('a signature that was released and does not verify, a message that has another hash', async () => {
    const at = content.findIndex(({ kind, type }) => type === 'intent' && kind === 'transaction');
    const signature = Buffer.alloc(64, 1).toString('base64');
    const bad = content.map(record => (record.intent === at ? { ...record, signature } : record));
    const verdict = await verify(forge({ ...plan, content: bad }));
    expect(verdict.finding).toMatchObject({ class: 'bad-signature', seq: at + 1 });
    const other = content.map(record => (record.seq === at ? { ...record, transaction: 'AAAA' } : record));
    expect((await verify(forge({ ...plan, content: other }))).finding?.class).toBe('malformed');
  });
});

describe('a log whose oldest segments were pruned', () => {
  const gone = segments.slice(0, 2);
  const manifest = gone.map(name => {
    const [, ...lines] = linesIn(log, name);
    const first = parsed(lines[0] ?? '').seq;
    const { roots } = JSON.parse(linesIn(log, segments.at(-1) ?? '')[0] ?? '') as { roots: string[] };
    const next = JSON.parse(linesIn(log, segments[first / 8 + 1] ?? '')[0] ?? '') as { prev: string };
    const root = roots[first / 8] ?? '';
    return { segment: name, first, last: first + 7, root, lastHash: next.prev, sha256: '0', at: 'then' };
  });
  const withManifest = (entries: readonly object[]): Files =>
    withLines(
      new Map([...log].filter(([name]) => !gone.includes(name) && name !== 'checkpoints-000000000000.jsonl')),
      manifestName,
      entries.map(entry => JSON.stringify(entry)),
    );

  it('is checked from there on, against the same checkpoints and witnesses', async () => {
    const verdict = await verify(withManifest(manifest), notesOf(log));
    expect(verdict).toMatchObject({
      ok: true,
      checked: { first: 16, size: content.length, witnessed: content.length },
    });
  });

  it('is checked as a whole when the archived segments are put back', async () => {
    const whole = new Map([...log, ...withManifest(manifest)]);
    whole.delete('checkpoints-000000000000.jsonl');
    expect(await verify(whole, notesOf(log))).toMatchObject({ ok: true, checked: { first: 0 } });
    expect(
      (await verify(new Map([...whole, [gone[1] ?? '', log.get(gone[0] ?? '') ?? Buffer.alloc(0)]]))).ok,
    ).toBe(false);
  });

  it('is not in order when the manifest lacks what is missing, or contradicts what is there', async () => {
    const [one = {}, two = {}] = manifest;
    const classOf = async (entries: readonly object[]) =>
      (await verify(withManifest(entries))).finding?.class;
    expect(await classOf([])).toBe('deleted');
    expect(await classOf([one])).toBe('deleted');
    expect(await classOf([two])).toBe('deleted');
    expect(await classOf([one, { ...two, root: '0'.repeat(64) }])).toBe('edited');
    expect(await classOf([one, { ...two, lastHash: '0'.repeat(64) }])).toBe('edited');
    expect(await classOf([{ ...one, last: 'x' }, two])).toBe('edited');
  });

  it('is not in order when manifest and header were both made up', async () => {
    const [one = {}, two = {}] = manifest;
    const name = segments[2] ?? '';
    const [header = '', ...lines] = linesIn(log, name);
    const made = { ...(JSON.parse(header) as { roots: string[] }), roots: ['1'.repeat(64), '2'.repeat(64)] };
    const files = withManifest([
      { ...one, root: made.roots[0] },
      { ...two, root: made.roots[1] },
    ]);
    const verdict = await verify(withLines(files, name, [JSON.stringify(made), ...lines]));
    expect(verdict.finding).toMatchObject({ class: 'edited', file: name, line: 1 });
  });
});

it('no byte of the segments can be changed', async () => {
  let found: AuditVerdict | undefined;
  for (const name of segments) {
    const bytes = log.get(name) ?? Buffer.alloc(0);
    for (let at = segments.indexOf(name); at < bytes.length; at += 37) {
      const other = Buffer.from(bytes);
      other[at] = (other[at] ?? 0) ^ 0x01;
      found = await verify(new Map([...log, [name, other]]));
      if (found.ok) expect(`${name} at ${at}`).toBe('found');
    }
  }
  const last = segments.at(-1) ?? '';
  const whole = log.get(last) ?? Buffer.alloc(0);
  const unended = new Map([...log, [last, whole.subarray(0, -1)]]);
  expect((await verify(unended)).finding?.class).toBe('truncated');
  expect(found?.finding?.class).toBe('edited');
});

const checkpointFiles = (files: Files): Map<string, Buffer> =>
  new Map([...files].filter(([name]) => name.startsWith('checkpoints-')));

/** Only the first so many records; with dice, the cut goes through a line. */
function cut(files: Files, size: number, dice: Dice | undefined): Files {
  const kept = new Map(files);
  for (const [at, name] of segments.entries()) {
    const here = size - at * plan.records;
    const lines = linesIn(files, name);
    if (here < 0 || (here === 0 && at > 0)) kept.delete(name);
    else if (here < lines.length - 1) {
      const text = Buffer.from(
        lines
          .slice(0, here + 1)
          .map(line => `${line}\n`)
          .join(''),
      );
      const more = Buffer.from(lines[here + 1] ?? '');
      kept.set(name, dice ? Buffer.concat([text, more.subarray(0, dice.below(more.length))]) : text);
    }
  }
  return kept;
}

/** The content without one record, and with the places that results name moved along. */
function without(all: readonly AuditRecord[], seq: number): AuditRecord[] {
  return all
    .filter(record => record.seq !== seq)
    .map(record => {
      const { intent } = record;
      return intent !== undefined && intent > seq ? { ...record, intent: intent - 1 } : record;
    });
}
