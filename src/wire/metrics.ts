import { z } from 'zod';
import { nothing, operation, repeatable } from './operation.ts';

/**
 * Every number that Keyslot shows, by its name in Prometheus. Labels have few values: slots, groups and operations of
 * the configuration, and words of the code. No key, no address of a client, no id of a request is ever one.
 *
 * `docs/ops/metrics.md` says the same for readers; a test holds the two equal.
 */
export const metrics = {
  keyslot_build_info: gauge('Always 1; the labels say what runs.', 'version', 'node'),
  keyslot_ready: gauge('1 while everything that is required can do its work, as /readyz says.'),
  keyslot_draining: gauge('1 while the appliance takes leave of its callers.'),
  keyslot_custodian_up: gauge('1 when the custodian answered this scrape.'),
  keyslot_process_restarts_total: counter('Times a process ended by itself and was started anew.', 'process'),

  keyslot_http_requests_total: counter(
    'Requests on the API listener, by the class of their status.',
    'method',
    'status',
  ),
  keyslot_http_request_duration_seconds: histogram(
    'From the head of a request to the end of its answer.',
    wide,
  ),
  keyslot_http_requests_in_flight: gauge('Requests on the API listener that are being answered.'),
  keyslot_http_connections: gauge('Open connections.', 'listener'),
  keyslot_certificate_expiry_timestamp_seconds: gauge('When a certificate ends.', 'certificate'),

  keyslot_requests_total: counter(
    'Calls that the custodian has answered. Refused is what the caller can mend, failed is what it cannot.',
    'operation',
    'outcome',
  ),
  keyslot_auth_failures_total: counter('Credentials that were not taken.', 'method', 'reason'),
  keyslot_sign_requests_total: counter(
    'Signatures that were asked for; each item of a batch is one.',
    'engine',
    'slot',
    'kind',
    'outcome',
  ),
  keyslot_sign_duration_seconds: histogram(
    'Of signatures that were made, from their bytes to the durable result.',
    wide,
    'engine',
    'slot',
  ),
  keyslot_sign_stage_duration_seconds: histogram('The same by stage, also of those refused.', fine, 'stage'),
  keyslot_policy_decisions_total: counter(
    'Signatures that policies have decided on; a refusal counts once for each kind of rule that refused.',
    'decision',
    'rule',
  ),

  keyslot_slot_state: gauge('1 for the state that the slot is in.', 'slot', 'engine', 'state'),
  keyslot_slot_required: gauge('1 for a slot without which the appliance is not ready.', 'slot'),
  keyslot_slot_findings: gauge('Differences between registry and token.', 'slot', 'harm'),
  keyslot_keys: gauge('Registered keys.', 'slot', 'engine', 'state'),
  keyslot_canary_age_seconds: gauge('Since the last signature of the slot that verified.', 'slot'),
  keyslot_canary_proven: gauge('1 while the slot has shown lately that it signs.', 'slot'),
  keyslot_canary_attempts_total: counter('Attempts of the canary since the slot opened.', 'slot', 'result'),
  keyslot_group_state: gauge('1 for the state that the group is in.', 'group', 'state'),
  keyslot_group_member_circuit: gauge('1 for the state of the circuit.', 'group', 'slot', 'state'),

  keyslot_pkcs11_sessions: gauge('Sessions of the pool that sign.', 'slot', 'state'),
  keyslot_pkcs11_sessions_max: gauge('How many sessions the pool may have.', 'slot'),
  keyslot_pkcs11_requests_waiting: gauge('Requests that wait for a session.', 'slot'),
  keyslot_pkcs11_calls_written_off_total: counter('Calls that did not come back in time.', 'slot'),
  keyslot_pkcs11_errors_total: counter('Answers of the token that were no CKR_OK, by code.', 'slot', 'ckr'),
  keyslot_pkcs11_outages_total: counter(
    'Times the device was lost, by what its code means.',
    'slot',
    'class',
  ),
  keyslot_pkcs11_recovery_attempts_total: counter('Attempts to get it back.', 'slot', 'result'),

  keyslot_audit_state: gauge('1 for the state that the audit log is in.', 'state'),
  keyslot_audit_last_seq: gauge('The newest durable record.'),
  keyslot_audit_records_total: counter('Records written since the custodian started.'),
  keyslot_audit_commit_duration_seconds: histogram('One write and one flush to the disk.', fine),
  keyslot_audit_backlog_records: gauge('Records that wait to be written.'),
  keyslot_audit_uncheckpointed_records: gauge('Records that no checkpoint covers.'),
  keyslot_audit_unwitnessed_records: gauge('Records that no witness has seen.'),
  keyslot_audit_checkpoint_timestamp_seconds: gauge('When the newest checkpoint was made.'),
  keyslot_audit_witness_up: gauge(
    '1 while the witness takes checkpoints; numbered as configured.',
    'witness',
  ),

  keyslot_store_size_bytes: gauge('The database, without its write-ahead log.'),
  keyslot_disk_free_bytes: gauge('What is left for the user of the appliance.', 'place'),
  keyslot_disk_size_bytes: gauge('The file system.', 'place'),
  keyslot_clock_offset_seconds: gauge('How far the clock of the machine is from the one that limits go by.'),

  process_cpu_seconds_total: counter('Time on the processor.', 'process'),
  process_start_time_seconds: gauge('When the process started.', 'process'),
  process_resident_memory_bytes: gauge('Resident memory.', 'process'),
  nodejs_heap_size_used_bytes: gauge('The heap in use.', 'process'),
  nodejs_external_memory_bytes: gauge('Buffers outside of the heap.', 'process'),
  nodejs_eventloop_lag_seconds: gauge(
    'How late the event loop was since the last scrape.',
    'process',
    'percentile',
  ),
  nodejs_eventloop_utilization_ratio: gauge('How busy the event loop was since the last scrape.', 'process'),
} as const satisfies Record<string, MetricInfo>;

export type MetricName = keyof typeof metrics;

/** The media type of the text format of Prometheus. */
export const expositionType = 'text/plain; version=0.0.4; charset=utf-8';

export type Labels = Readonly<Record<string, string>>;

export interface MetricInfo {
  readonly type: 'counter' | 'gauge' | 'histogram';
  readonly help: string;
  readonly labels: readonly string[];
  /** Upper bounds of a histogram in ascending order, without the last one, which is infinite. */
  readonly bounds?: readonly number[];
}

/** One line, or of a histogram all lines that share their labels. How numbers travel from process to process. */
export const series = z.object({
  name: z.enum(Object.keys(metrics) as [MetricName, ...MetricName[]]),
  labels: z.record(z.string(), z.string()),
  value: z.number().optional(),
  /** Of a histogram: how many observations each bucket has for itself, the infinite one last, and their sum. */
  buckets: z.array(z.int()).optional(),
  sum: z.number().optional(),
});
export type Series = z.infer<typeof series>;

export const metricsOperations = {
  /** What the custodian has counted and sees now. */
  metrics: operation(nothing, z.object({ series: z.array(series) }), repeatable),
};

function counter<const L extends readonly string[]>(help: string, ...labels: L) {
  return { type: 'counter', help, labels } as const;
}

function gauge<const L extends readonly string[]>(help: string, ...labels: L) {
  return { type: 'gauge', help, labels } as const;
}

function histogram<const L extends readonly string[]>(
  help: string,
  bounds: () => readonly number[],
  ...labels: L
) {
  return { type: 'histogram', help, labels, bounds: bounds() } as const;
}

/** Of a whole request, up to the deadline. */
function wide() {
  return [0.0005, 0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 15];
}

/** Of its parts, which may be very short. */
function fine() {
  return [0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 0.25, 1, 5];
}
