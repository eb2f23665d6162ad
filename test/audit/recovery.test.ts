import {
  appendFileSync,
  copyFileSync,
  cpSync,
  readFileSync,
  rmSync,
  truncateSync,
  writeFileSync,
} from 'node:fs';
import { describe, expect, it } from 'vitest';
import { canonicalLine, lineHash } from '../../src/audit/record.ts';
import { AuditLab, appendMany, codeOf, event, flawOf } from './lab.ts';

/** A log of 19 records in three segments with a checkpoint of all of them, closed. */
async function closedLog(lab: AuditLab): Promise<string> {
  const log = await lab.open();
  await appendMany(log, 18);
  await log[Symbol.asyncDispose]();
  return lab.path(lab.names().at(-1) ?? '');
}

const reopened = (lab: AuditLab): Promise<string> => codeOf(() => lab.open());

describe('what an interrupted write left behind', () => {
  it('is cut off at whatever length, noted in the boot record, and nothing acknowledged goes with it', async () => {
    await using lab = new AuditLab();
    const last = await closedLog(lab);
    const whole = readFileSync(last);
    const torn = `${lab.lines().at(-1)}\n${lab.lines().at(-1)}\n`.replaceAll('"seq":18', '"seq":19');
    for (let length = 1; length < torn.length / 2; length += 1 + (length % 11)) {
      writeFileSync(last, Buffer.concat([whole, Buffer.from(torn.slice(0, length))]));
      const log = await lab.open();
      expect(log.recovered.tornTail_bytes).toBe(length);
      await log[Symbol.asyncDispose]();
      expect(JSON.parse(lab.lines()[19] ?? '')).toMatchObject({
        type: 'boot',
        detail: { tornTail_bytes: length },
      });
      expect(flawOf(lab.lines())).toBeUndefined();
      for (const name of lab.names('checkpoints')) rmSync(lab.path(name)); // they are ahead of what is put back
      rmSync(lab.path(lab.names()[3] ?? 'none'), { force: true });
    }
  });

  it('may be zeros, or a last line that is none', async () => {
    await using lab = new AuditLab();
    const last = await closedLog(lab);
    const keep = readFileSync(last);
    for (const rest of ['\0'.repeat(4096), '{"v":1,"node"\n', '\0\0\0\n']) {
      writeFileSync(last, keep);
      appendFileSync(last, rest);
      for (const name of lab.names('checkpoints')) rmSync(lab.path(name));
      const log = await lab.open();
      expect(log.recovered.tornTail_bytes).toBe(rest.length);
      await log[Symbol.asyncDispose]();
    }
  });

  it('may be a segment that was just begun', async () => {
    await using lab = new AuditLab();
    const log = await lab.open();
    await appendMany(log, 7); // with the boot record, exactly one segment
    await log[Symbol.asyncDispose]();
    for (const begun of ['', '{"keyslot-audit":1,"node":"te']) {
      await using copy = new AuditLab();
      cpSync(lab.path(), copy.path(), { recursive: true });
      writeFileSync(copy.path('segment-000000000008.jsonl'), begun);
      const again = await copy.open();
      expect(again.status().size).toBe(9);
      expect(flawOf(copy.lines())).toBeUndefined();
    }
  });

  it('may be the very first segment', async () => {
    await using lab = new AuditLab();
    await (await lab.open())[Symbol.asyncDispose]();
    for (const name of lab.names('checkpoints')) rmSync(lab.path(name));
    truncateSync(lab.path(lab.names()[0] ?? ''), 10);
    expect((await lab.open()).status().size).toBe(1);
  });

  it('may be a checkpoint that nobody was given', async () => {
    await using lab = new AuditLab();
    await closedLog(lab);
    const file = lab.path(lab.names('checkpoints').at(-1) ?? '');
    const whole = readFileSync(file, 'utf8');
    for (const rest of ['{"note":"torn', '{"note":\n']) {
      appendFileSync(file, rest);
      const log = await lab.open();
      expect(readFileSync(file, 'utf8').startsWith(whole)).toBe(true);
      expect(readFileSync(file, 'utf8')).not.toContain(rest);
      await log[Symbol.asyncDispose]();
    }
  });
});

describe('a start', () => {
  it('is refused when a line of the last segment was edited, with or without the chain made anew', async () => {
    await using lab = new AuditLab();
    const last = await closedLog(lab);
    const text = readFileSync(last, 'utf8');
    writeFileSync(last, text.replace('request-16', 'request-66'));
    expect(await reopened(lab)).toBe('AUDIT_TAMPERED');
    const [header = '', ...lines] = text.replace('request-16', 'request-66').split('\n').slice(0, -1);
    let prev = JSON.parse(header).prev as string;
    const forged = lines.map(line => {
      const again = canonicalLine({ ...JSON.parse(line), prev });
      prev = lineHash(again).toString('hex');
      return again;
    });
    writeFileSync(last, `${[header, ...forged].join('\n')}\n`);
    expect(await reopened(lab)).toBe('AUDIT_TAMPERED'); // the checkpoint says another root
  });

  it('is refused after every way of spoiling the last segment', async () => {
    await using lab = new AuditLab();
    const last = await closedLog(lab);
    const text = readFileSync(last, 'utf8');
    const lines = text.split('\n');
    const bent: Readonly<Record<string, string>> = {
      'a record deleted': lines.toSpliced(1, 1).join('\n'),
      'two swapped': [lines[0], lines[2], lines[1], ...lines.slice(3)].join('\n'),
      'one twice': [lines[0], lines[1], lines[1], ...lines.slice(2)].join('\n'),
      'a space': text.replace('"type":"event"', '"type": "event"'),
      'an unknown field': text.replace('"type":"event"', '"type":"event","x":1'),
      'the node': text.replaceAll('"node":"test"', '"node":"other"'),
      'the header': text.replace('"records":8', '"records":16'),
      'the roots': text.replace(/"roots":\["./, '"roots":["'),
      'a line that is none amid others': [lines[0], 'nonsense', ...lines.slice(1)].join('\n'),
      'the last record cut off': `${lines.slice(0, -2).join('\n')}\n`,
      'half of the last record cut off': text.slice(0, -100),
    };
    for (const [what, content] of Object.entries(bent)) {
      expect(content, what).not.toBe(text);
      writeFileSync(last, content);
      expect(await reopened(lab), what).toBe('AUDIT_TAMPERED');
    }
    writeFileSync(last, text);
    expect(await reopened(lab)).toBe('none');
  });

  it('is refused when a segment is missing, or all of them', async () => {
    await using lab = new AuditLab();
    await closedLog(lab);
    const names = lab.names();
    const middle = lab.path(names[1] ?? '');
    copyFileSync(middle, `${middle}.kept`);
    rmSync(middle);
    expect(await reopened(lab)).toBe('AUDIT_TAMPERED');
    for (const name of lab.names()) rmSync(lab.path(name));
    expect(await reopened(lab)).toBe('AUDIT_TAMPERED');
  });

  it('is refused when the log was put back to where it was before its newest checkpoint', async () => {
    await using lab = new AuditLab();
    await using earlier = new AuditLab();
    await closedLog(lab);
    cpSync(lab.path(), earlier.path(), { recursive: true });
    const log = await lab.open();
    await appendMany(log, 20);
    await log[Symbol.asyncDispose]();
    for (const name of lab.names()) rmSync(lab.path(name));
    for (const name of earlier.names()) copyFileSync(earlier.path(name), lab.path(name));
    expect(await reopened(lab)).toBe('AUDIT_TAMPERED');
  });

  it('is refused for the log of another node', async () => {
    await using lab = new AuditLab();
    await closedLog(lab);
    expect(await codeOf(() => lab.open({ node: 'other' }))).toBe('AUDIT_TAMPERED');
  });

  it('leaves nothing locked when it was refused', async () => {
    await using lab = new AuditLab();
    const last = await closedLog(lab);
    const text = readFileSync(last);
    writeFileSync(last, 'nonsense\n');
    expect(await reopened(lab)).toBe('AUDIT_TAMPERED');
    writeFileSync(last, text);
    expect(await reopened(lab)).toBe('none');
  });
});

describe('an intent without a result', () => {
  it('of an earlier boot gets a result of outcome unknown, once, however long ago it was', async () => {
    await using lab = new AuditLab();
    const first = await lab.open();
    const intents = await Promise.all(
      ['a', 'b', 'c'].map(key => first.append({ type: 'intent', key, message: 'm', requestId: `r-${key}` })),
    );
    await first.append({ type: 'result', intent: intents[1]?.seq, outcome: 'ok', key: 'b' });
    await appendMany(first, 40); // several segments later
    const late = await first.append({ type: 'intent', key: 'd', message: 'm' });
    await first[Symbol.asyncDispose]();

    const second = await lab.open();
    const open = [intents[0]?.seq, intents[2]?.seq, late.seq];
    expect(second.recovered.unsettled.map(record => record.seq)).toEqual(open);
    expect(second.recovered.unsettled.map(record => record.key)).toEqual(['a', 'c', 'd']);
    const results = (await second.read(late.seq + 2, 10)).map(({ record }) => record);
    expect(results).toMatchObject(
      open.map((intent, at) => ({
        type: 'result',
        outcome: 'unknown',
        intent,
        key: 'acd'[at],
        message: 'm',
      })),
    );
    await second[Symbol.asyncDispose]();
    expect((await lab.open()).recovered.unsettled).toEqual([]);
  });

  it('is one of the records that can be read again from any place', async () => {
    await using lab = new AuditLab();
    const first = await lab.open();
    await appendMany(first, 30);
    await first[Symbol.asyncDispose]();
    const second = await lab.open();
    await second.append(event('later'));
    const seqs: number[] = [];
    for await (const record of second.recovered.records(5)) seqs.push(record.seq);
    expect(seqs).toEqual(Array.from({ length: 26 }, (_, at) => at + 5)); // what was there before this boot
    expect(await second.read(33, 10)).toEqual([]);
  });
});
