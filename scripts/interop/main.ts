import { spawn } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { listing } from '../../src/cli/output.ts';
import { generates } from '../../src/custody/engine.ts';
import { keyId, slotId } from '../../src/custody/ids.ts';
import {
  createPkcs11Engine,
  inspectModule,
  type ModuleReport,
  pkcs11Settings,
} from '../../src/engines/pkcs11/index.ts';
import { createVerifier } from '../../src/foundation/ed25519.ts';
import { silentLog } from '../../src/foundation/log.ts';
import { type KryopticToken, kryopticToken } from '../../test/interop/kryoptic-token.ts';

/**
 * Keyslot on Kryoptic: a token is initialised, `keyslot doctor` is asked about it, signatures are made and verified,
 * and the exams of `test/interop` are held: that of every engine in both modes, and what SoftHSM has not. Started by
 * `run` as `main.ts <library> [--json]`; fails when anything does not hold.
 */

const root = resolve(import.meta.dirname, '../..');
const signatures = 2_000;
const atOnce = 8;

const [, , module = '', ...flags] = process.argv;
using token = kryopticToken(module, 'interop');
const version = versionOf(inspectModule(module), token.label);
const doctor = await askDoctor(token);
const derDoctor = await askDoctor(token, { KRYOPTIC_EC_POINT_ENCODING: 'DER' });
const signing = await sign(token);
const exam = await holdExam(token);

const holds =
  [doctor, derDoctor].every(({ verdict, tidy }) => verdict === 'native' && tidy) &&
  doctor.ecPoint === 'raw' &&
  derDoctor.ecPoint === 'octet-string' &&
  signing.verified === signatures &&
  exam.success &&
  exam.failed === 0 &&
  exam.passed > 0;
if (!holds) process.exitCode = 1;
console.log(
  listing({
    token: `Kryoptic ${version.token}, Cryptoki ${version.cryptoki}`,
    doctor: `${doctor.verdict}, EC_POINT ${doctor.ecPoint}; told to answer DER: ${derDoctor.verdict}, ${derDoctor.ecPoint}`,
    signatures: `${signing.verified} of ${signatures} verify; ${signing.perSecond} a second`,
    exam: `${exam.passed} passed, ${exam.failed} failed`,
    result: holds ? 'everything holds' : 'NOT everything holds: see above',
  }),
);
if (flags.includes('--json')) {
  const kryoptic = holds ? 'passed' : 'failed';
  console.log(JSON.stringify({ kryoptic, version, doctor, derDoctor, signatures: signing, exam }));
}

function versionOf({ library, tokens }: ModuleReport, label: string) {
  const firmware = tokens.find(each => each.label === label)?.firmware ?? 'unknown'; // its library is always 0.0
  return { token: firmware, cryptoki: library.cryptoki };
}

async function askDoctor(
  { environment, label, pinFile }: KryopticToken,
  besides: Record<string, string> = {},
) {
  const variables = Object.entries({ ...environment, ...besides }).flatMap(([name, value]) => [
    '--env',
    `${name}=${value}`,
  ]);
  const named = ['doctor', '--module', module, ...variables, '--token', label, '--pin-file', pinFile];
  const { output } = await run(join(root, 'bin', 'keyslot'), [...named, '--json']);
  const [found] = (JSON.parse(output) as DoctorReport).tokens;
  for (const reason of found?.reasons ?? []) console.error(`doctor: ${reason}`);
  for (const { code, detail } of found?.problems ?? []) console.error(`doctor: ${code}: ${detail}`);
  return {
    verdict: found?.verdict ?? 'no token',
    ecPoint: found?.examination?.pair?.ecPoint ?? 'not seen',
    gcmIv: found?.examination?.gcmIv ?? 'none',
    tidy: found?.examination?.tidy ?? false,
  };
}

interface DoctorReport {
  readonly tokens: readonly {
    readonly verdict: string;
    readonly reasons: readonly string[];
    readonly problems: readonly { readonly code: string; readonly detail: string }[];
    readonly examination?: {
      readonly pair?: { readonly ecPoint: string };
      readonly gcmIv?: string;
      readonly tidy: boolean;
    };
  }[];
}

async function sign({ label, pin }: KryopticToken) {
  const slot = slotId('main');
  const settings = pkcs11Settings.parse({ module, profile: 'kryoptic', tokenLabel: label });
  await using engine = createPkcs11Engine(slot, settings, silentLog);
  const [only] = await engine.slots();
  using secret = pin();
  await using session = await only?.open(secret);
  if (!session || !generates(session)) throw new Error('The slot makes no keys.');
  const { id, publicKey } = await session.generate(keyId('interop'));
  const signer = await session.signer(id);
  const messages = Array.from({ length: signatures }, () => randomBytes(256));
  const signed: Uint8Array[] = [];
  const began = performance.now();
  let next = 0;
  await Promise.all(
    Array.from({ length: atOnce }, async () => {
      for (let at = next++; at < signatures; at = next++) {
        signed[at] = await signer.sign(messages[at] ?? Buffer.alloc(0));
      }
    }),
  );
  const perSecond = Math.round(signatures / ((performance.now() - began) / 1_000));
  const verifier = createVerifier(publicKey);
  const verdicts = await Promise.all(
    messages.map((message, at) => verifier.verify(message, signed[at] ?? Buffer.alloc(0))),
  );
  return { verified: verdicts.filter(Boolean).length, perSecond };
}

async function holdExam({ folder }: KryopticToken) {
  const results = join(folder, 'exam.json');
  const config = join(root, 'test', 'interop', 'vitest.config.ts');
  const reporters = ['--reporter=default', '--reporter=json', `--outputFile.json=${results}`];
  await run(join(root, 'node_modules', '.bin', 'vitest'), ['run', '--config', config, ...reporters], {
    KEYSLOT_KRYOPTIC: module,
  });
  const { numPassedTests, numTotalTests, success } = JSON.parse(readFileSync(results, 'utf8')) as ExamResults;
  return { passed: numPassedTests, failed: numTotalTests - numPassedTests, success };
}

/** As vitest writes them. A file that cannot be loaded fails without a failed test. */
interface ExamResults {
  readonly numPassedTests: number;
  readonly numTotalTests: number;
  readonly success: boolean;
}

/** What it prints is read with `--json`; the exam's is shown. */
async function run(command: string, args: readonly string[], variables: Record<string, string> = {}) {
  const child = spawn(command, args, {
    env: { ...process.env, ...variables },
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  let output = '';
  child.stdout.setEncoding('utf8').on('data', text => {
    output += text;
    if (!args.includes('--json')) process.stderr.write(text);
  });
  const status = await new Promise<number | null>((settled, failed) => {
    child.once('error', failed).once('close', settled);
  });
  return { status, output };
}
