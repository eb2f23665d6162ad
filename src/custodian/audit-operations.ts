import type { AuditLog } from '../audit/audit-log.ts';
import { encodeBase58 } from '../foundation/base58.ts';
import { limits } from '../foundation/limits.ts';
import type { auditOperations as shapes } from '../wire/audit.ts';
import type { Operations } from './operation.ts';

/** The audit log as the API gives it out. */
export function auditOperations(
  audit: AuditLog,
  publicKey: () => Uint8Array | undefined,
  beforePruning: () => Promise<void>,
): Operations<keyof typeof shapes> {
  return {
    'audit-status': async () => {
      const key = publicKey();
      const { witnesses, ...status } = audit.status();
      const output = {
        ...status,
        witnesses: [...witnesses],
        ...(key ? { publicKey: encodeBase58(key) } : {}),
      };
      return { output };
    },
    'read-audit': async ({ input }) => {
      const limit = Math.min(input.limit, limits.page_items_max);
      const { size } = audit.status();
      const lines = (await audit.read(input.from, limit)).map(each => each.line);
      const next = input.from + lines.length;
      return { output: { lines, size, ...(next < size && lines.length > 0 ? { next } : {}) } };
    },
    'prove-audit': async ({ input }) => {
      const { path, ...proof } = await audit.inclusionProof(input.seq, input.size);
      return { output: { ...proof, path: [...path] } };
    },
    'audit-consistency': async ({ input }) => {
      const { path, ...proof } = await audit.consistencyProof(input.from, input.to);
      return { output: { ...proof, path: [...path] } };
    },
    'list-checkpoints': async ({ input }) => ({
      output: {
        checkpoints: [...(await audit.checkpoints(input.from, Math.min(input.limit, limits.page_items_max)))],
      },
    }),
    'prune-audit': async ({ input }) => {
      await beforePruning(); // what is not counted yet must not go
      const { removed, first } = await audit.prune(input.below);
      return { output: { removed: [...removed], first } };
    },
  };
}
