import { programKey } from '../named-programs.ts';
import { decodeBy, opaque, type Program, shapesOf } from './instruction.ts';

/** The compute budget program: `ComputeBudgetInstruction`, one byte and a number. What it costs is in the fees. */
const shapes = shapesOf('compute-budget', [
  opaque('request-units'), // no validator executes it any more
  { name: 'request-heap-frame', data: 5, accounts: 0 },
  { name: 'set-compute-unit-limit', data: 5, accounts: 0 },
  { name: 'set-compute-unit-price', data: 9, accounts: 0 },
  { name: 'set-loaded-accounts-data-size-limit', data: 5, accounts: 0 },
]);

export const computeBudget: Program = {
  id: programKey('compute-budget'),
  decode: call => decodeBy(shapes.get(call.data[0] ?? -1), call),
};
