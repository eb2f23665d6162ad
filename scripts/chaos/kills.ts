import { randomInt } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';
import { atMost, type Chaos, exactly, type Figure, type Scenario, told } from './figure.ts';
import { House, tokenLabel } from './house.ts';
import { failuresOf, isSigned, Signer, type Signing, signedOf } from './signing.ts';
import { Trail } from './trail.ts';

/**
 * The custodian is killed in the middle of signing, again and again: most times by SIGKILL, every fourth time by a
 * crash inside the module. Several appliances side by side, because one that has just come back is left in peace for
 * a while: the supervisor restarts a custodian that dies at once again ever more slowly.
 */
export const kills: Scenario = {
  name: 'kills',
  what: 'kills of the custodian while it signs',
  async run(chaos: Chaos): Promise<readonly Figure[]> {
    const { short, progress } = chaos;
    const plan = short
      ? { houses: 2, kills: 3, signings: 250, peace_ms: 0 }
      : { houses: 4, kills: 50, signings: 250, peace_ms: 11_000 };
    const alone = oneAtATime();
    let done = 0;
    const killed = () => {
      done += 1;
      progress(`${done} of ${plan.houses * plan.kills} kills`);
    };
    const found = await Promise.all(
      Array.from({ length: plan.houses }, (_, at) =>
        besieged(chaos, { ...plan, name: `kills-${at}`, killed, alone }),
      ),
    );
    const sum = (of: (one: Found) => number) => found.reduce((total, one) => total + of(one), 0);
    const recoveries = found.flatMap(({ recoveries_ms }) => recoveries_ms).sort((one, other) => one - other);
    const all = found.flatMap(({ signings }) => signings);
    return [
      exactly(
        'kills_wrong',
        'signatures that do not verify, or differ for the same bytes',
        sum(one => one.wrong),
        0,
      ),
      exactly(
        'kills_duplicates',
        'signatures beyond the first of an Idempotency-Key',
        sum(one => one.duplicates),
        0,
      ),
      exactly(
        'kills_repeats_differing',
        'repeats that were answered otherwise than the first time',
        sum(one => one.differing),
        0,
      ),
      exactly(
        'kills_lost',
        'acknowledged, and not so in the audit log',
        sum(one => one.lost),
        0,
      ),
      exactly(
        'kills_log_findings',
        'what is wrong with the audit logs',
        sum(one => one.findings),
        0,
      ),
      exactly('kills_count', 'kills that the custodian died of', done, plan.houses * plan.kills),
      atMost(
        'kills_recovery_median_ms',
        'from the kill to the first signature of the successor',
        recoveries[Math.floor(recoveries.length / 2)] ?? Number.NaN,
        2_000,
      ),
      atMost('kills_recovery_max_ms', 'the longest of them', recoveries.at(-1) ?? Number.NaN, 2_000),
      told('kills_recoveries', 'recoveries that were measured', recoveries.length),
      told('kills_signed_share', 'requests that ended in a signature', signedOf(all).length / all.length),
      told('kills_signatures', 'signatures asked for', all.length),
      ...Object.entries(failuresOf(all)).map(([code, times]) =>
        told(`kills_ended_${code}`, `requests that ended with ${code}`, times),
      ),
    ];
  },
};

/** Work that waits for the work before it. */
function oneAtATime(): <T>(work: () => Promise<T>) => Promise<T> {
  let before: Promise<unknown> = Promise.resolve();
  return work => {
    const now = before.then(work);
    before = now.catch(() => undefined); // told to whoever asked for it
    return now;
  };
}

interface Found {
  readonly signings: readonly Signing[];
  readonly recoveries_ms: readonly number[];
  readonly wrong: number;
  readonly duplicates: number;
  readonly differing: number;
  readonly lost: number;
  readonly findings: number;
}

async function besieged({ stack, note }: Chaos, plan: Plan): Promise<Found> {
  const house = await House.start(stack);
  const client = house.client();
  const publicKey = await house.auditKey(client);
  const signer = new Signer(client, house);
  await signer.sign(`${plan.name}-before`, 100, lanes);
  const rounds: Round[] = [];
  for (let at = 0; at < plan.kills; at += 1) {
    await sleep(plan.peace_ms);
    const crash = at % 4 === 3 || (plan.kills < 4 && at === 1);
    const name = `${plan.name}-${at}`;
    rounds.push(await plan.alone(() => oneKill(house, signer, name, plan.signings, crash)));
    plan.killed();
  }
  const signings = rounds.flatMap(round => round.signings);
  const differing = await repeated(signer, rounds);
  await house.stop();
  const trail = await Trail.read(house.auditFolder, publicKey, note);
  return {
    signings,
    recoveries_ms: rounds.flatMap(round => recovery_ms(round, trail)),
    wrong: signer.wrong,
    duplicates: trail.duplicates,
    differing,
    lost: trail.lost(signings),
    findings: trail.findings,
  };
}

interface Plan {
  readonly name: string;
  readonly kills: number;
  readonly signings: number;
  readonly peace_ms: number;
  killed(): void;
  /** Two that come back at once would wait for each other's processor time. */
  alone<T>(work: () => Promise<T>): Promise<T>;
}

interface Round {
  readonly killed_at_ms: number;
  readonly signings: readonly Signing[];
}

/** Somewhere in the middle of so many signings. */
async function oneKill(
  house: House,
  signer: Signer,
  name: string,
  count: number,
  crash: boolean,
): Promise<Round> {
  const pid = await house.custodian();
  const at = randomInt(Math.ceil(count * 0.1), Math.floor(count * 0.8));
  const kill = Promise.withResolvers<number>();
  const signing = signer.sign(name, count, lanes, done => {
    if (done === at) kill.resolve(crash ? crashOf(house) : killOf(pid));
  });
  const killed_at_ms = await kill.promise;
  await house.custodian(pid);
  const signings = await signing;
  house.faulty.heal();
  return { killed_at_ms, signings };
}

const lanes = 16;

function killOf(pid: number): number {
  process.kill(pid, 'SIGKILL');
  return performance.now();
}

/** At the next signature, before or after it was made. */
function crashOf({ faulty }: House): number {
  const when = randomInt(2) === 0 ? 'before' : 'after';
  faulty.inject({ on: 'C_Sign', effect: 'crash', when, token: tokenLabel, times: 1 });
  return performance.now();
}

/** The first signature that was made and recorded by another start of the custodian than the one that died. */
function recovery_ms({ killed_at_ms, signings }: Round, trail: Trail): number[] {
  const signed = signedOf(signings).sort((one, other) => one.outcome.seq - other.outcome.seq);
  const died = trail.boot(signed[0]?.outcome.seq ?? -1);
  const later = signed.filter(({ outcome }) => trail.boot(outcome.seq) !== died);
  const [first] = later.map(({ outcome }) => outcome.at_ms).sort((one, other) => one - other);
  return first === undefined ? [] : [first - killed_at_ms];
}

/** Every tenth request again, under its key: how many are answered with something else. */
async function repeated(signer: Signer, rounds: readonly Round[]): Promise<number> {
  let differing = 0;
  for (const { signings } of rounds) {
    for (const [at, { idempotencyKey, outcome }] of signings.entries()) {
      if (at % repeatEvery !== 0 || !isSigned(outcome)) continue;
      const again = await signer.one(idempotencyKey, at);
      const same =
        isSigned(again.outcome) &&
        again.outcome.seq === outcome.seq &&
        again.outcome.signature.equals(outcome.signature);
      if (!same) differing += 1;
    }
  }
  return differing;
}

const repeatEvery = 10;
