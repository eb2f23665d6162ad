import { X509Certificate } from 'node:crypto';

/** The certificates of a PEM text (RFC 7468), in its order. */
export const certificatesIn = (pem: string): readonly X509Certificate[] =>
  (pem.match(/-----BEGIN CERTIFICATE-----[^-]+-----END CERTIFICATE-----/g) ?? []).map(
    text => new X509Certificate(text),
  );
