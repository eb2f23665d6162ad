/**
 * What the examples are about: the key of RFC 8032 §7.1, TEST 1, as `treasury`, and what it signs. The seed is
 * published, so nothing of value may ever be behind it.
 */
export const exampleSeed = 'nWGxne/9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A=';
export const exampleAddress = 'FVen3X669xLzsi6N2V91DoiyzHzg1uAgqiT8jZ9nS96Z';

/** The seed of TEST 2, for a key that is brought in. */
export const otherSeed = 'TM0Imyj/ltqdtsNG7BFOD1uKMZ81q6Yk2oz27U+4pvs=';
export const otherAddress = '586Z7H2vpX9qNhN2T4e9Utugie3ogjbxzGaMtM3E6HR5';

/** `hello` */
export const exampleMessage = 'aGVsbG8=';
export const exampleSignature =
  '2d4MUkzBrJ4m51MmL5XYaMdXDuLf2NFhLg29sKHAHT8znzkXabQx9mmym36JJJJYjPh8C1qomveKJNLHFcufTRNu';
export const exampleSignatureBase64 =
  'URykl8TUJwsJixr9WuTjuVGl2iydpunAUo9XYYg2duffbkwPDhtaCkRE9CmLGILdgi+xEzy9Sav7mWyHzVuFBg==';

/** A transfer of 0.001 SOL, not signed yet, and signed. */
export const exampleTransaction =
  'AQAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAABAAED11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURor2AbJfw4ArxofwzKPp2OpJpcjyNuPrE+Tr3HbGG1ukAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAABwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcBAgIAAQwCAAAAQEIPAAAAAAA=';
export const exampleSignedTransaction =
  'AceEjBp9yuFRYomN1QGAsPG1MtS3LFLmcwL/1+GL81xNb31LvzENgose0XShmBsGkFexkWQFlM6rMdstkT6SEwgBAAED11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURor2AbJfw4ArxofwzKPp2OpJpcjyNuPrE+Tr3HbGG1ukAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAABwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcBAgIAAQwCAAAAQEIPAAAAAAA=';
export const exampleTransactionSignature =
  '4zMzbeXWXgjfRhRZwMC6Bd77rymHpRbjAd6fUe7ewURqqt2NVz88cy9vit2bhcriSNUVLMa39eRgqfDZBNR1zjNw';
export const exampleTransactionSignatureBase64 =
  'x4SMGn3K4VFiiY3VAYCw8bUy1LcsUuZzAv/X4YvzXE1vfUu/MQ2Cix7RdKGYGwaQV7GRZAWUzqsx2y2RPpITCA==';

/** Of an identity that signs in with a certificate: the SHA-256 of its public key. */
export const exampleSpki = '5feceb66ffc86f38d952786c6d696c79c2dbc239dd4e91b46729d73a27fb57e9';

export const exampleReceipt = {
  node: 'lab',
  seq: 7,
  hash: '6b86b273ff34fce19d6b804eff5a3f5747ada4eaa22f1d49c01e52ddb7875b4b',
  proof: '/v1/audit/7/proof',
} as const;

export const exampleDocument = {
  name: 'treasury-policy',
  appliesTo: { keys: ['treasury'] },
  messages: { offchain: true },
} as const;
