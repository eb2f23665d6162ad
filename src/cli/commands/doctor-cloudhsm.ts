import { type Check, type PreflightOptions, preflight } from '../../appliance/preflight.ts';
import { print, printJson, refused, table } from '../output.ts';
import { ProgressLine } from '../progress-line.ts';

/** What AWS says of a CloudHSM cluster; exit status 1 when a check failed, and not for what could not be asked. */
export async function doctorOfCluster(options: PreflightOptions & { json?: boolean }): Promise<void> {
  const { json, ...asked } = options;
  const found = await watched(asked);
  if (found.outcome === 'fail') process.exitCode = refused;
  if (json) return printJson({ cloudhsm: found });
  print(
    table(
      ['check', 'outcome', 'detail'],
      found.checks.map(check => [check.name, check.outcome, check.detail]),
    ),
  );
  for (const line of found.checks.flatMap(todo)) print(line);
}

async function watched(asked: PreflightOptions) {
  using progress = new ProgressLine();
  progress.show('asking AWS, and knocking at the HSMs');
  return await preflight(asked);
}

const todo = ({ name, remedy }: Check): readonly string[] =>
  remedy === undefined ? [] : [`to do (${name}): ${remedy}`];
