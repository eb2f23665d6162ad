import { table } from '../../src/cli/output.ts';
import type { Cost, Report, Result } from './measurement.ts';

/** The report as people read it: a table, what it is measured against, and how far each aim is. */
export function reportText(report: Report): string {
  const parts = [resultTable(report.results), ...(report.costs ? [costTable(report.costs)] : [])];
  parts.push(standards(report).join('\n'), aimsOf(report).map(aimLine).join('\n'));
  return parts.join('\n\n');
}

/** What Keyslot wants to reach, and what this run reached; an aim that was not measured is not listed. */
export function aimsOf(report: Report): readonly Aim[] {
  const find = (mode: Result['mode'], connections: number) =>
    report.results.find(each => each.mode === mode && each.connections === connections);
  const { memory } = report;
  const costAt = (connections: number) => report.costs?.find(cost => cost.connections === connections);
  const added = costAt(1);
  const aims: readonly (Omit<Aim, 'reached' | 'value'> & { readonly value: number | undefined })[] = [
    {
      what: 'single, 64 connections: ratio to the raw limit',
      value: find('single', 64)?.ratio,
      sense: 'min',
      aim: 0.2,
    },
    {
      what: 'batch of 100, 64 connections: ratio to the raw limit',
      value: find('batch', 64)?.ratio,
      sense: 'min',
      aim: 0.3,
    },
    { what: 'single, 1 connection: p50 in ms', value: find('single', 1)?.p50_ms, sense: 'max', aim: 1 },
    {
      what: 'policy, audit with fsync: throughput kept at 64 connections',
      value: costAt(64)?.ratio,
      sense: 'min',
      aim: 0.8,
    },
    {
      what: 'policy, audit with fsync: added to p50 at 1 connection, in ms',
      value: added && added.p50_ms.with - added.p50_ms.without,
      sense: 'max',
      aim: 1.5,
    },
    {
      what: 'resident memory: bytes a signature, both processes',
      value: memory?.bytesPerSignature,
      sense: 'max',
      aim: 200,
    },
  ];
  return aims.flatMap(({ value, ...aim }) => {
    if (value === undefined) return [];
    return [{ ...aim, value, reached: aim.sense === 'min' ? value >= aim.aim : value <= aim.aim }];
  });
}

export interface Aim {
  readonly what: string;
  readonly value: number;
  readonly sense: 'min' | 'max';
  readonly aim: number;
  readonly reached: boolean;
}

const aimLine = ({ what, value, sense, aim, reached }: Aim): string => {
  const verdict = reached ? 'reached' : `short by ${short(Math.abs(value - aim))}`;
  return `${reached ? '✓' : '✗'} ${what}: ${short(value)} (aim: at ${sense === 'min' ? 'least' : 'most'} ${aim}) ${verdict}`;
};

const resultTable = (results: readonly Result[]): string =>
  table(
    [
      'MODE',
      'CONNECTIONS',
      'SIGNATURES/S',
      'RATIO',
      'BY CPU',
      'P50 MS',
      'P99 MS',
      'REFUSED',
      'CPU US A SIGNATURE',
    ],
    results.map(({ mode, connections, perSecond, ratio, ratioByCpu, p50_ms, p99_ms, refused, cpu_us }) => [
      mode,
      String(connections),
      perSecond.toFixed(0),
      ratio.toFixed(3),
      ratioByCpu.toFixed(3),
      p50_ms.toFixed(2),
      p99_ms.toFixed(2),
      String(refused),
      `gateway ${cpu_us.gateway.toFixed(0)}, custodian ${cpu_us.custodian.toFixed(0)}, load ${cpu_us.load.toFixed(0)}`,
    ]),
  );

const costTable = (costs: readonly Cost[]): string =>
  table(
    [
      'CONNECTIONS',
      'WITHOUT POLICY AND AUDIT',
      'WITH BOTH',
      'KEPT',
      'BY CPU',
      'P50 MS WITHOUT',
      'P50 MS WITH',
    ],
    costs.map(({ connections, perSecond, p50_ms, ratio, ratioByCpu }) => [
      String(connections),
      `${perSecond.without.toFixed(0)}/s`,
      `${perSecond.with.toFixed(0)}/s`,
      ratio.toFixed(3),
      ratioByCpu.toFixed(3),
      p50_ms.without.toFixed(2),
      p50_ms.with.toFixed(2),
    ]),
  );

function standards({ rawLimit, rawLimits, rawCpu_us, ceiling, memory, results }: Report): string[] {
  const spread = `${Math.min(...rawLimits).toFixed(0)} to ${Math.max(...rawLimits).toFixed(0)}`;
  const lines = [
    `raw limit  ${rawLimit.toFixed(0)} signatures/s (median of ${rawLimits.length}, ${spread}), ${rawCpu_us.toFixed(0)} us of CPU each: the module alone, all cores, one process`,
    `ceiling    ${ceiling.perSecond.toFixed(0)} signatures/s, ratio ${ceiling.ratio.toFixed(3)} (${ceiling.ratioByCpu.toFixed(3)} by CPU): the same, each signature verified`,
  ];
  if (memory) {
    const { before, after } = memory.resident_bytes;
    const grown = (name: 'gateway' | 'custodian') =>
      `${name} ${mebibytes(before[name])} to ${mebibytes(after[name])} MiB (${short(memory[name])} bytes a signature)`;
    lines.push(`memory     over ${memory.signatures} signatures: ${grown('gateway')}, ${grown('custodian')}`);
  }
  const elsewhere = Math.max(0, ...results.map(row => row.elsewhere));
  if (elsewhere > elsewhere_max) {
    const share = `${(elsewhere * 100).toFixed(0)} %`;
    lines.push(`shared     up to ${share} of the processors went to other work: believe BY CPU, not RATIO`);
  }
  return lines;
}

const elsewhere_max = 0.1;

const mebibytes = (bytes: number): string => (bytes / 1_048_576).toFixed(1);
const short = (value: number): string => (Math.abs(value) < 10 ? value.toFixed(3) : value.toFixed(0));
