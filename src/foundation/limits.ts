/** The bounds of everything that a caller can make large or slow, in one place. */
export const limits = {
  /** A message to sign. AWS CloudHSM takes at most 16,000 bytes for PureEdDSA. */
  message_bytes_max: 16_000,
  /** A legacy or v0 transaction: one IPv6 packet of 1,280 bytes less its headers. */
  transaction_bytes_max: 1_232,
  /** A v1 transaction (SIMD-0385). */
  transactionV1_bytes_max: 4_096,
  batch_items_max: 100,
  /** The body of any route but sign-batch. */
  body_bytes_max: 32 * 1024,
  /** The body of sign-batch: a hundred messages of 4 KiB in base64, with room for the JSON around them. */
  batchBody_bytes_max: 1024 * 1024,
  pin_bytes_max: 255,
  page_items_max: 500,
  page_items_default: 100,
  /** One answer of the wallet routes, whose clients know of no pages: with the longest labels it fits a frame. */
  wallets_items_max: 4_000,
  /** From the last byte of a request to its answer. */
  request_ms: 30_000,
  /** Connections of one listener; what a client may take its time for on one of them. */
  connections_max: 4_096,
  handshake_ms: 10_000,
  head_ms: 10_000,
  head_bytes_max: 16 * 1024,
  /** Until an answer has been read. */
  taking_ms: 30_000,
  /** Between two requests. */
  idle_ms: 75_000,
  /** Requests of one connection that have no answer yet. */
  pipelined_max: 16,
  /** How long a stop waits for what is in flight: less than the supervisor waits before it kills. */
  drain_ms: 4_000,
  /** How long one slot of a group may take over a signature before another one is asked for it. */
  groupAttempt_ms: 5_000,
  /** Requests waiting for a session of one slot. */
  slotQueue_items_max: 4_096,
  /** Calls of one gateway that wait for the custodian. */
  pendingCalls_max: 8_192,
  /** One frame on the socket between gateway and custodian. */
  frame_bytes_max: 4 * 1024 * 1024,
} as const;
