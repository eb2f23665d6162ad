/** Reads the text format of Prometheus as strictly as it is written down, for tests. */
export interface Sample {
  readonly name: string;
  readonly labels: Readonly<Record<string, string>>;
  readonly value: number;
}

export interface Family {
  readonly type: string;
  readonly samples: readonly Sample[];
}

/** Throws at the first line that is not as the format has it, and when a name or a line comes twice. */
export function parseExposition(text: string): ReadonlyMap<string, Family> {
  if (!text.endsWith('\n')) throw new TypeError('The last line does not end.');
  const families = new Map<string, { type: string; samples: Sample[] }>();
  const seen = new Set<string>();
  let name = '';
  let helped = '';
  for (const line of text.split('\n').slice(0, -1)) {
    const help = /^# HELP ([a-z_][a-z0-9_]*) \S/.exec(line);
    const type = /^# TYPE ([a-z_][a-z0-9_]*) (counter|gauge|histogram)$/.exec(line);
    if (help) {
      helped = help[1] ?? '';
    } else if (type) {
      name = type[1] ?? '';
      if (name !== helped || families.has(name)) throw new TypeError(`out of order: ${line}`);
      families.set(name, { type: type[2] ?? '', samples: [] });
    } else {
      const sample = sampleOf(line);
      const id = JSON.stringify([sample.name, sample.labels]);
      if (seen.has(id)) throw new TypeError(`twice: ${line}`);
      seen.add(id);
      const family = families.get(name);
      const suffixes = family?.type === 'histogram' ? ['_bucket', '_sum', '_count'] : [''];
      if (!family || !suffixes.some(suffix => sample.name === `${name}${suffix}`)) {
        throw new TypeError(`not of ${name}: ${line}`);
      }
      family.samples.push(sample);
    }
  }
  return families;
}

function sampleOf(line: string): Sample {
  const parts = /^([a-z_][a-z0-9_]*)(?:\{(.*)\})? (\S+)$/s.exec(line);
  if (!parts) throw new TypeError(`no sample: ${line}`);
  const [, name = '', inside = '', number = ''] = parts;
  const value = Number(number);
  if (!Number.isFinite(value)) throw new TypeError(`no number: ${line}`);
  const labels: Record<string, string> = {};
  let rest = inside;
  while (rest !== '') {
    const pair = /^([a-z_][a-z0-9_]*)="((?:[^"\\]|\\["\\n])*)"(?:,|$)/s.exec(rest);
    if (!pair) throw new TypeError(`no labels: ${line}`);
    const [whole, label = '', escaped = ''] = pair;
    if (label in labels) throw new TypeError(`a label twice: ${line}`);
    labels[label] = escaped.replaceAll(/\\(.)/g, (_, each: string) => (each === 'n' ? '\n' : each));
    rest = rest.slice(whole.length);
  }
  return { name, labels, value };
}

/** The value of the one line with these labels, among others; undefined when there is none. */
export function lineValue(
  families: ReadonlyMap<string, Family>,
  name: string,
  labels: Readonly<Record<string, string>> = {},
): number | undefined {
  const family = families.get(name) ?? families.get(name.replace(/_(bucket|sum|count)$/, ''));
  const found = family?.samples.filter(
    sample =>
      sample.name === name &&
      Object.entries(labels).every(([label, value]) => sample.labels[label] === value),
  );
  if (found && found.length > 1) throw new TypeError(`${name} has several such lines.`);
  return found?.[0]?.value;
}
