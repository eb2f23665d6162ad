import { KeyslotError } from '../foundation/errors.ts';
import { type OperationName, operations } from '../wire/custodian.ts';
import type { policyOperations as shapes } from '../wire/policies.ts';
import type { Approvals } from './approvals.ts';
import type { Door } from './door.ts';
import type { FreezeBoard } from './freeze-board.ts';
import type { Operations } from './operation.ts';
import type { PolicyBook } from './policy-book.ts';
import type { SigningDesk } from './signing-desk.ts';

/** Policies, freezes and approvals, as the API asks for them. */
export function policyOperations(world: PolicyWorld): Operations<keyof typeof shapes> {
  const { book, freezes, approvals, now, door, desk } = world;
  return {
    'list-policies': async () => ({ output: { policies: [...book.all()] } }),
    'show-policy': async ({ input }) => ({ output: await book.show(input.policy, input.version) }),
    'put-policy': async ({ input }, _call, identity) => {
      const { policy: name, document, expected } = input;
      return { output: await book.put({ name, document, expected, by: identity.name, at: now() }) };
    },
    'delete-policy': async ({ input }) => ({ output: await book.remove(input.policy, now()) }),
    'evaluate-policy': async ({ input, bytes }, call, identity) => {
      const record = door.visibleKey(input.key, identity, call);
      const candidate = input.document && [book.candidate(input.document)];
      const order = { kind: input.kind, bytes: Uint8Array.from(bytes?.[0] ?? []) };
      return {
        output: await desk.explain(order, { record, identity, policies: candidate, signal: call.signal }),
      };
    },
    'list-freezes': async () => ({ output: { freezes: [...freezes.all()] } }),
    freeze: async ({ input }, call, identity) => {
      const { scope, target, reason } = input;
      if ((scope === 'appliance') !== (target === undefined)) {
        throw new KeyslotError(
          'BODY_INVALID',
          'A target is named for a slot or a key, and not for the appliance.',
        );
      }
      // Only what somebody may know of is frozen by them: otherwise a freeze would tell what there is.
      if (scope === 'slot') door.visibleSlot(target ?? '', identity);
      if (scope === 'key') door.visibleKey(target ?? '', identity, call);
      const named = target === undefined ? {} : { target };
      return { output: await freezes.freeze({ scope, ...named, reason, by: identity.name }) };
    },
    thaw: async ({ input }) => ({ output: await freezes.thaw(input.freeze) }),
    'list-approvals': async () => ({ output: { approvals: [...approvals.all()] } }),
    'show-approval': async ({ input }) => ({ output: approvals.show(input.approval) }),
    'request-approval': async ({ input }, _call, identity) => {
      const { operation, reason } = input;
      const parsed = operationNamed(operation).input.safeParse(input.input);
      if (!parsed.success) {
        throw new KeyslotError('BODY_INVALID', `The input of ${operation} does not have its shape.`);
      }
      return {
        output: approvals.request(
          identity.name,
          operation as OperationName,
          parsed.data as object as Input,
          reason,
        ),
      };
    },
    'decide-approval': async ({ input }, _call, identity) => ({
      output: approvals.decide(input.approval, identity.name, input.decision, input.digest),
    }),
  };
}

export interface PolicyWorld {
  readonly book: PolicyBook;
  readonly freezes: FreezeBoard;
  readonly approvals: Approvals;
  readonly now: () => Date;
  readonly door: Door;
  readonly desk: SigningDesk;
}

type Input = Readonly<Record<string, unknown>>;

function operationNamed(name: string) {
  if (Object.hasOwn(operations, name)) return operations[name as OperationName];
  throw new KeyslotError('BODY_INVALID', `There is no operation ${JSON.stringify(name)}.`);
}
