import { answerParent } from '../bench/helper.ts';
import { attacks } from './attacks.ts';
import { Crowd, type Tally, type Target } from './crowd.ts';

/** One attack. A process of its own, so that its time is not that of whoever it is measured by. */

export interface AttackQuestion extends Target {
  readonly name: string;
  readonly seconds: number;
}

answerParent<AttackQuestion, Tally>(async ({ name, seconds, ...target }) => {
  const attack = attacks.find(each => each.name === name);
  if (!attack) throw new Error(`There is no attack ${name}.`);
  using crowd = new Crowd(attack, target);
  await crowd.during(seconds);
  await crowd.settled();
  return crowd.tally();
});
