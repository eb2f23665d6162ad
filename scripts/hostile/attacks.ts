/** What hostile clients do, as data: who they are many of, what they send, and what they should get. */
export interface Attack {
  readonly name: string;
  readonly what: string;
  /** So many at a time, opened at most so fast: the load shares the cores with what it attacks. */
  readonly connections: number;
  readonly opensPerSecond: number;
  /** Until there are as many; the others are measured from then on. */
  readonly rampUp_s?: number;
  /** Opened anew when they were closed, while the attack lasts. */
  readonly again: boolean;
  /** How far a connection goes before it sends: TCP alone, or a TLS handshake too. */
  readonly layer: 'tcp' | 'tls';
  /** Sent when that is done; the second connection takes the second of them, and so on. */
  readonly opening: readonly Buffer[];
  /** Sent again and again from then on. */
  readonly drip?: { readonly bytes: Buffer; readonly every_ms: number };
  /** Does not read what it gets. */
  readonly deaf?: boolean;
  /** Closed by the attacker itself as soon as its opening is sent. */
  readonly leaves?: boolean;
  /** The only ends that its connections may have: a status, or `closed` without one. */
  readonly ends: readonly string[];
  /** The bound: how long the appliance keeps one of its connections. */
  readonly kept_s_max: number;
}

const head = (method: string, path: string, ...lines: string[]): Buffer =>
  Buffer.from([`${method} ${path} HTTP/1.1`, 'Host: localhost', ...lines, '', ''].join('\r\n'));
const json = 'Content-Type: application/json';
const sign = '/v1/keys/bench/sign-message';
const nothing = Buffer.of();
const health = head('GET', '/healthz');
const junk = Buffer.alloc(48 * 1024, 'a');

/** The first bytes of a TLS record with a ClientHello that announces 512 bytes. */
const halfHello = Buffer.from(`1603010200010001fc0303${'ab'.repeat(32)}`, 'hex');

const endlessChunks = Buffer.concat(
  Array.from({ length: 16 }, () => Buffer.from(`1000\r\n${'a'.repeat(4_096)}\r\n`)),
);

export const attacks: readonly Attack[] = [
  {
    name: 'slow-heads',
    what: 'slowloris: one header line a second, without end',
    ...{ connections: 500, opensPerSecond: 60, again: true, layer: 'tls' },
    opening: [head('POST', sign, json).subarray(0, -2)],
    drip: { bytes: Buffer.from('X: y\r\n'), every_ms: 1_000 },
    ends: ['408'],
    kept_s_max: 15,
  },
  {
    name: 'slow-bodies',
    what: 'one byte of a body a second',
    ...{ connections: 500, opensPerSecond: 60, again: true, layer: 'tls' },
    opening: [head('POST', sign, json, 'Content-Length: 4000')],
    drip: { bytes: Buffer.from('a'), every_ms: 1_000 },
    ends: ['408'],
    kept_s_max: 35,
  },
  {
    name: 'half-open',
    what: 'connected and silent, or half a ClientHello',
    ...{ connections: 500, opensPerSecond: 500, again: true, layer: 'tcp' },
    opening: [nothing, halfHello],
    ends: ['closed'],
    kept_s_max: 15,
  },
  {
    name: 'silent',
    what: 'TLS is up, and no request follows',
    ...{ connections: 500, opensPerSecond: 60, again: true, layer: 'tls' },
    opening: [nothing],
    ends: ['408'],
    kept_s_max: 15,
  },
  {
    name: 'large-bodies',
    what: 'bodies over the limit, announced or in endless chunks',
    ...{ connections: 50, opensPerSecond: 50, again: true, layer: 'tls' },
    opening: [
      Buffer.concat([head('POST', sign, json, 'Content-Length: 4000000000'), junk]),
      Buffer.concat([head('POST', sign, json, 'Transfer-Encoding: chunked'), endlessChunks]),
    ],
    ends: ['413'],
    kept_s_max: 15,
  },
  {
    name: 'large-heads',
    what: 'floods of headers: one of 48 KiB, or six thousand small ones',
    ...{ connections: 50, opensPerSecond: 50, again: true, layer: 'tls' },
    opening: [
      head('GET', '/healthz', `X: ${junk.toString()}`),
      head('GET', '/healthz', ...Array.from({ length: 6_000 }, (_, at) => `X-${at}: y`)),
    ],
    ends: ['431'],
    kept_s_max: 15,
  },
  {
    name: 'pipelines',
    what: 'a thousand requests in one write, five times a second',
    ...{ connections: 50, opensPerSecond: 5, again: true, layer: 'tls' },
    opening: [Buffer.concat(Array.from({ length: 1_000 }, () => head('GET', '/v1/keys')))],
    ends: ['closed', '401'],
    kept_s_max: 15,
  },
  {
    name: 'deaf',
    what: 'asks for the largest public answer again and again, and reads nothing',
    ...{ connections: 50, opensPerSecond: 50, again: false, layer: 'tls', deaf: true },
    opening: [nothing],
    drip: {
      bytes: Buffer.concat(Array.from({ length: 8 }, () => head('GET', '/v1/openapi.json'))),
      every_ms: 500,
    },
    ends: ['closed'],
    kept_s_max: 45,
  },
  {
    name: 'handshakes',
    what: 'handshakes and nothing else, each a new one',
    ...{ connections: 100, opensPerSecond: 60, again: true, layer: 'tls', leaves: true },
    opening: [nothing],
    ends: ['left'],
    kept_s_max: 15,
  },
  {
    name: 'full-house',
    what: 'more silent connections than there is room for',
    ...{ connections: 6_000, opensPerSecond: 1_000, again: true, layer: 'tcp' },
    opening: [nothing],
    ends: ['closed'],
    kept_s_max: 15,
  },
  {
    name: 'idle-house',
    what: 'as many that asked once, and are kept open',
    ...{ connections: 4_500, opensPerSecond: 150, rampUp_s: 31, again: false, layer: 'tls' },
    opening: [health],
    ends: ['200'],
    kept_s_max: 115,
  },
];
