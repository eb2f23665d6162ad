import type { Fault } from '../../test/engines/pkcs11/faulty/faulty.ts';
import { atLeast, type Chaos, exactly, type Figure, type Scenario, told } from './figure.ts';
import { House, tokenLabel } from './house.ts';
import { failuresOf, isSigned, Signer, signedOf } from './signing.ts';
import { Trail } from './trail.ts';

/** Signing while a hundredth of the signatures meets a fault of each kind that can be overcome. */
export const faults: Scenario = {
  name: 'faults',
  what: 'signing through every fault that can be overcome',
  async run({ short, stack, progress, note }: Chaos): Promise<readonly Figure[]> {
    const count = short ? 2_500 : 100_000;
    const house = await House.start(stack);
    const { faulty } = house;
    const client = house.client();
    const publicKey = await house.auditKey(client);
    const signer = new Signer(client, house);
    await signer.sign('before', 100, lanes); // all sessions are open, and the code is compiled
    const injected = classes.map(({ rules }, kind) =>
      rules.map((rule, at) => faulty.inject({ ...rule, seed: kind * 16 + at + 1 } as Fault)),
    );
    const began_ms = performance.now();
    const signings = await signer.sign('faults', count, lanes, done => {
      if (done % 50 === 0) progress(`${done} of ${count} signatures`);
    });
    const seconds = (performance.now() - began_ms) / 1_000;
    const fired = injected.map(rules => rules.reduce((sum, rule) => sum + rule.count().fired, 0));
    faulty.heal();
    await house.stop();
    const trail = await Trail.read(house.auditFolder, publicKey, note);
    const signed = signedOf(signings).length;
    const answered = signings.filter(({ outcome }) => isSigned(outcome) || outcome.answered).length;
    return [
      exactly('faults_wrong', 'signatures that do not verify, or differ for the same bytes', signer.wrong, 0),
      exactly('faults_lost', 'acknowledged, and not so in the audit log', trail.lost(signings), 0),
      exactly('faults_log_findings', 'what is wrong with the audit log', trail.findings, 0),
      exactly(
        'faults_classes',
        'kinds of faults that were met',
        fired.filter(count => count > 0).length,
        classes.length,
      ),
      atLeast('faults_signed_share', 'requests that ended in a signature', signed / count, 0.9999),
      told('faults_answered_share', 'requests that the appliance answered at all', answered / count),
      told('faults_signatures', 'signatures asked for', count),
      ...classes.map(({ name }, at) =>
        told(`faults_injected_${name}`, `faults of the kind ${name}`, fired[at] ?? 0),
      ),
      ...Object.entries(failuresOf(signings)).map(([code, times]) =>
        told(`faults_ended_${code}`, `requests that ended with ${code}`, times),
      ),
      told('faults_per_second', 'signatures a second', signed / seconds),
    ];
  },
};

const lanes = 16;

/** Of each kind one fault in a hundred signatures; where there are two rules, they share. */
const classes: readonly { readonly name: string; readonly rules: readonly Partial<Fault>[] }[] = [
  {
    name: 'session',
    rules: [
      { on: 'C_SignInit', effect: 'answer', code: 0xb0, probability: 0.0025 },
      { on: 'C_Sign', effect: 'answer', code: 0xb3, probability: 0.0025 },
      { on: 'C_SignInit', effect: 'answer', code: 0x90, probability: 0.0025 },
      { on: 'C_SignInit', effect: 'lose-sessions', token: tokenLabel, probability: 0.0025 },
    ],
  },
  {
    name: 'login',
    rules: [
      { on: 'C_SignInit', effect: 'answer', code: 0x101, probability: 0.005 },
      { on: 'C_SignInit', effect: 'lose-login', token: tokenLabel, probability: 0.005 },
    ],
  },
  {
    name: 'stale_handle',
    rules: [
      { on: 'C_SignInit', effect: 'answer', code: 0x60, probability: 0.004 },
      { on: 'C_SignInit', effect: 'answer', code: 0x82, probability: 0.004 },
      { on: 'C_SignInit', effect: 'stale-objects', probability: 0.002 },
    ],
  },
  {
    name: 'transient',
    rules: [
      { on: 'C_Sign', effect: 'answer', code: 0x06, probability: 0.005 },
      { on: 'C_Sign', effect: 'answer', code: 0x06, when: 'after', probability: 0.005 },
    ],
  },
  {
    name: 'device',
    rules: [
      { on: 'C_Sign', effect: 'answer', code: 0x30, probability: 0.0025 },
      { on: 'C_Sign', effect: 'answer', code: 0x32, probability: 0.0025 },
      { on: 'C_Sign', effect: 'answer', code: 0x05, when: 'after', probability: 0.0025 },
      { on: 'C_SignInit', effect: 'answer', code: 0xe0, probability: 0.0025 },
    ],
  },
  { name: 'latency', rules: [{ on: 'C_Sign', effect: 'latency', ms: 100, probability: 0.01 }] },
];
