import { webcrypto } from 'node:crypto';
// @peculiar/x509 finds its parsers by dependency injection, which needs this polyfill to be there first.
import 'reflect-metadata';
import * as x509 from '@peculiar/x509';

/** A small certificate authority for development and tests: P-256, ECDSA with SHA-256. */

export interface Issued {
  /** PEM. */
  readonly certificate: string;
  /** PKCS#8 PEM. */
  readonly key: string;
}

export interface Authority extends Issued {
  /** A certificate for a listener: DNS names and IP addresses it answers to. */
  issueServer(names: readonly string[]): Promise<Issued>;
  /** A certificate for somebody who calls. */
  issueClient(commonName: string): Promise<Issued>;
}

export async function createAuthority(commonName: string, valid_days = 825): Promise<Authority> {
  const keys = await newKeys();
  const certificate = await x509.X509CertificateGenerator.createSelfSigned({
    ...validity(valid_days),
    name: `CN=${commonName}`,
    keys,
    signingAlgorithm: algorithm,
    extensions: [
      new x509.BasicConstraintsExtension(true, 0, true),
      new x509.KeyUsagesExtension(x509.KeyUsageFlags.keyCertSign | x509.KeyUsageFlags.cRLSign, true),
      await x509.SubjectKeyIdentifierExtension.create(keys.publicKey),
    ],
  });
  const issue = issuer(certificate, keys, valid_days);
  return {
    certificate: certificate.toString('pem'),
    key: await privatePem(keys),
    issueServer: names =>
      issue(names[0] ?? 'keyslot', x509.ExtendedKeyUsage.serverAuth, [
        new x509.SubjectAlternativeNameExtension(
          names.map(value => ({ type: /^[\d.]+$|:/.test(value) ? 'ip' : 'dns', value })),
        ),
      ]),
    issueClient: name => issue(name, x509.ExtendedKeyUsage.clientAuth, []),
  };
}

function issuer(authority: x509.X509Certificate, authorityKeys: webcrypto.CryptoKeyPair, valid_days: number) {
  return async (
    commonName: string,
    usage: x509.ExtendedKeyUsage,
    more: x509.Extension[],
  ): Promise<Issued> => {
    const keys = await newKeys();
    const certificate = await x509.X509CertificateGenerator.create({
      ...validity(valid_days),
      subject: `CN=${commonName}`,
      issuer: authority.subject,
      signingKey: authorityKeys.privateKey,
      publicKey: keys.publicKey,
      signingAlgorithm: algorithm,
      extensions: [
        new x509.BasicConstraintsExtension(false, undefined, true),
        new x509.KeyUsagesExtension(x509.KeyUsageFlags.digitalSignature, true),
        new x509.ExtendedKeyUsageExtension([usage]),
        await x509.AuthorityKeyIdentifierExtension.create(authority),
        ...more,
      ],
    });
    return { certificate: certificate.toString('pem'), key: await privatePem(keys) };
  };
}

const algorithm = { name: 'ECDSA', namedCurve: 'P-256', hash: 'SHA-256' } as const;

const newKeys = () => webcrypto.subtle.generateKey(algorithm, true, ['sign', 'verify']);

const privatePem = async ({ privateKey }: webcrypto.CryptoKeyPair): Promise<string> =>
  x509.PemConverter.encode(await webcrypto.subtle.exportKey('pkcs8', privateKey), 'PRIVATE KEY');

// An hour back, for clients whose clock is behind.
const validity = (valid_days: number) => ({
  serialNumber: Buffer.from(webcrypto.getRandomValues(new Uint8Array(16)))
    .toString('hex')
    .replace(/^[89a-f]/, '1'),
  notBefore: new Date(Date.now() - 3_600_000),
  notAfter: new Date(Date.now() + valid_days * 86_400_000),
});
