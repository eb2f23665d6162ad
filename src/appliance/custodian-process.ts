import { runAsChild } from './child.ts';
import { type CustodianBoot, startCustodian } from './custodian-start.ts';

/** The process that holds the keys. */

runAsChild((boot: CustodianBoot, parent) => startCustodian(boot, { parent }));
