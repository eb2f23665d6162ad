import type { X509Certificate } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { KeyslotError } from '../foundation/errors.ts';
import type { Log } from '../foundation/log.ts';
import { certificatesIn } from '../foundation/pem.ts';
import { type Config, inHome } from './config.ts';

/** When certificates of the configuration begin and end (RFC 5280 §4.1.2.5), and what is said of it in time. */

/** CERTIFICATE_EXPIRED when one of them, or each of them, is not valid at this moment. */
export function refuseInvalidNow(
  setting: string,
  certificates: readonly X509Certificate[],
  valid: 'every' | 'some',
): void {
  const [first] = certificates.flatMap(each => flawOf(each) ?? []);
  const flaws = certificates.filter(each => flawOf(each) !== undefined).length;
  if (first === undefined || (valid === 'some' && flaws < certificates.length)) return;
  throw new KeyslotError('CERTIFICATE_EXPIRED', `${setting}: the certificate ${first}.`);
}

/** Says which certificates end soon, or have ended: those of the listeners, and those that people are known by. */
export function warnOfEnds(config: Config, log: Log): void {
  const files: readonly (readonly [string, string])[] = [
    ['tls.certificate', config.tls.certificate],
    ['tls.clientCa', config.tls.clientCa],
    ...(config.command ? ([['command.certificate', config.command.certificate]] as const) : []),
    ...config.identities.flatMap(each =>
      'certificate' in each && 'file' in each.certificate
        ? [[`identities.${each.name}.certificate`, each.certificate.file] as const]
        : [],
    ),
  ];
  for (const [setting, file] of files) {
    for (const certificate of readable(inHome(config, file))) {
      const expiresAt = certificate.validToDate.toISOString();
      const flaw = flawOf(certificate);
      if (flaw !== undefined) log.error({ setting, expiresAt }, `a certificate ${flaw}`);
      else if (certificate.validToDate.getTime() - Date.now() < soon_ms) {
        log.warn({ setting, expiresAt }, 'a certificate ends soon');
      }
    }
  }
}

function flawOf({ validFromDate, validToDate }: X509Certificate): string | undefined {
  if (validToDate.getTime() <= Date.now()) return `expired at ${validToDate.toISOString()}`;
  if (validFromDate.getTime() > Date.now()) return `is not valid before ${validFromDate.toISOString()}`;
  return undefined;
}

/** What cannot be read is said where it is needed. */
function readable(path: string): readonly X509Certificate[] {
  try {
    return certificatesIn(readFileSync(path, 'utf8'));
  } catch (error) {
    if (error instanceof Error && 'code' in error) return [];
    throw error;
  }
}

/** As /v1/health warns. */
const soon_ms = 21 * 86_400_000;
