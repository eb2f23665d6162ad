import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { parse } from 'yaml';
import { type MetricInfo, type MetricName, metrics } from '../src/wire/metrics.ts';

/** What is written for those who watch: every name in it is one that /metrics has, with labels that it has. */

const file = (name: string): string =>
  readFileSync(join(import.meta.dirname, '..', 'docs', 'ops', name), 'utf8');

interface Rule {
  readonly alert: string;
  readonly expr: string;
  readonly labels: { readonly severity: string };
  readonly annotations: { readonly summary: string; readonly action: string };
}
const rules = (
  parse(file('alerts.yaml')) as { groups: readonly { rules: readonly Rule[] }[] }
).groups.flatMap(group => group.rules);

interface Panel {
  readonly id: number;
  readonly title: string;
  readonly targets?: readonly { readonly expr: string; readonly legendFormat: string }[];
}
const { panels } = JSON.parse(file('grafana-board.json')) as { panels: readonly Panel[] };
const targets = panels.flatMap(panel => panel.targets ?? []);

/** Every name of a metric in an expression, and the labels beside it in braces. */
function metricsIn(
  expression: string,
): readonly { readonly name: string; readonly labels: readonly string[] }[] {
  return [...expression.matchAll(/\b((?:keyslot|process|nodejs)_\w+)(?:\{([^}]*)\})?/g)].map(
    ([, name = '', inside = '']) => ({
      name,
      labels: [...inside.matchAll(/(\w+)\s*(?:=~|=|!=|!~)\s*"/g)].map(([, label = '']) => label),
    }),
  );
}

/** Of a histogram its three parts are written. */
function infoOf(name: string): MetricInfo | undefined {
  const histogram = metrics[name.replace(/_(bucket|sum|count)$/, '') as MetricName] as MetricInfo | undefined;
  const plain = metrics[name as MetricName] as MetricInfo | undefined;
  if (plain) return plain.type === 'histogram' ? undefined : plain;
  return histogram?.type === 'histogram' ? { ...histogram, labels: [...histogram.labels, 'le'] } : undefined;
}

/** What Prometheus adds by itself. */
const scraped = ['instance', 'job'];

describe('metrics', () => {
  it('are named as Prometheus asks for it', () => {
    for (const [name, { type, labels, help }] of Object.entries<MetricInfo>(metrics)) {
      expect(name).toMatch(/^(keyslot|process|nodejs)_[a-z0-9_]+$/);
      expect(name.endsWith('_total'), name).toBe(type === 'counter');
      if (type === 'histogram') expect(name).toMatch(/_seconds$/);
      expect(
        labels.filter(label => !/^[a-z_]+$/.test(label) || label === 'le'),
        name,
      ).toEqual([]);
      expect(help, name).toMatch(/\.$/);
      expect(name).not.toMatch(/_(ms|milliseconds|kb|mb)\b/);
    }
  });
});

describe('alerts and the board', () => {
  const expressions = [...rules.map(({ expr }) => expr), ...targets.map(({ expr }) => expr)];

  it('name metrics that there are, with labels that they have', () => {
    expect(expressions.length).toBeGreaterThan(50);
    for (const { name, labels } of expressions.flatMap(metricsIn)) {
      const known = infoOf(name)?.labels;
      expect(known, name).toBeDefined();
      expect(
        labels.filter(label => !known?.includes(label) && !scraped.includes(label)),
        name,
      ).toEqual([]);
    }
  });

  it('show everything that there is to see, but for what only explains it', () => {
    const shown = new Set(
      expressions.flatMap(metricsIn).map(({ name }) => name.replace(/_(bucket|sum|count)$/, '')),
    );
    const unseen = Object.keys(metrics).filter(name => !shown.has(name));
    expect(unseen.sort()).toEqual([
      'keyslot_audit_last_seq',
      'keyslot_slot_required',
      'nodejs_eventloop_utilization_ratio',
      'nodejs_external_memory_bytes',
      'process_start_time_seconds',
    ]);
  });

  it('say in their texts only labels that their expressions can have', () => {
    const texts = [
      ...rules.map(({ expr, annotations }) => ({ expr, text: annotations.summary })),
      ...targets.map(({ expr, legendFormat }) => ({ expr, text: legendFormat })),
    ];
    for (const { expr, text } of texts) {
      const possible = new Set([
        ...scraped,
        ...metricsIn(expr).flatMap(({ name }) => infoOf(name)?.labels ?? []),
      ]);
      const said = [...text.matchAll(/\{\{\s*(?:\$labels\.)?(\w+)\s*\}\}/g)].map(([, label = '']) => label);
      // An aggregation leaves only what it is by.
      const by = [...expr.matchAll(/\bby \(([^)]*)\)/g)].map(([, names = '']) => names.split(/,\s*/));
      for (const label of said) {
        expect(possible, text).toContain(label);
        for (const left of by) expect(left, `${text}: ${expr}`).toContain(label);
      }
    }
  });

  it('say what to do, how urgent it is, and have names of their own', () => {
    expect(new Set(rules.map(({ alert }) => alert)).size).toBe(rules.length);
    for (const { alert, labels, annotations } of rules) {
      expect(labels.severity, alert).toMatch(/^(page|ticket)$/);
      expect(annotations.action.length, alert).toBeGreaterThan(10);
    }
    expect(new Set(panels.map(({ id }) => id)).size).toBe(panels.length);
  });
});
