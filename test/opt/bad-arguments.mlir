// Each is refused with a message and a non-zero exit code, with nothing on stdout.

// RUN: not sparseflow-opt %s --no-such-pass 2>&1 >%t | FileCheck %s --check-prefix=PASS
// RUN: test ! -s %t
// PASS: sparseflow-opt: error: pass 'no-such-pass': is unknown

// RUN: not sparseflow-opt %s --match-sparse-linaer 2>&1 | FileCheck %s --check-prefix=TYPO
// TYPO: Did you mean 'match-sparse-linear'?

// RUN: not sparseflow-opt %s --split-input 2>&1 | FileCheck %s --check-prefix=ABBREVIATED
// ABBREVIATED: pass 'split-input': is unknown

// RUN: not sparseflow-opt %s -x 2>&1 | FileCheck %s --check-prefix=SHORT
// SHORT: command line: unexpected argument '-x'

// RUN: not sparseflow-opt %s %s 2>&1 | FileCheck %s --check-prefix=TWO
// TWO: command line: unexpected argument

// RUN: not sparseflow-opt %s -o 2>&1 | FileCheck %s --check-prefix=VALUE
// VALUE: command line: argument -o: expected one argument

// RUN: not sparseflow-opt %s --match-sparse-linear=min-q=3 2>&1 | FileCheck %s --check-prefix=OPTION
// OPTION: pass 'match-sparse-linear': has no option 'min-q'
// OPTION-NEXT: Its options are min-n, min-k, skip.

// RUN: not sparseflow-opt %s --canonicalize-linear=a=1 2>&1 | FileCheck %s --check-prefix=NOOPTION
// NOOPTION: It has no options.

// RUN: not sparseflow-opt %s --apply-policy=memory=small 2>&1 | FileCheck %s --check-prefix=MEMORY
// MEMORY: option 'memory'
// MEMORY-SAME: must be one of auto, compressed, fast, not 'small'

// RUN: not sparseflow-opt %s --match-sparse-linear=min-n=-3 2>&1 | FileCheck %s --check-prefix=NUMBER
// NUMBER: pass 'match-sparse-linear', option 'min-n': needs a whole number, not '-3'

// RUN: not sparseflow-opt %s --match-sparse-linear=min-n 2>&1 | FileCheck %s --check-prefix=EQUALS
// EQUALS: pass 'match-sparse-linear': option 'min-n' has no value

// RUN: not sparseflow-opt %s --match-sparse-linear="min-n=1 min-n=2" 2>&1 | FileCheck %s --check-prefix=TWICE
// TWICE: pass 'match-sparse-linear': option 'min-n' is given twice

// RUN: not sparseflow-opt %s --match-sparse-linear="skip='a" 2>&1 | FileCheck %s --check-prefix=QUOTE
// QUOTE: is never closed

// RUN: not sparseflow-opt %s --canonicalize=no-such=1 2>&1 | FileCheck %s --check-prefix=NATIVE
// NATIVE: pass 'canonicalize{no-such=1}': {{.*}}no such option no-such

// RUN: not sparseflow-opt %s --pass-pipeline=cse --cse 2>&1 | FileCheck %s --check-prefix=BOTH
// BOTH: command line: --pass-pipeline and flags of passes exclude each other

// RUN: not sparseflow-opt %s --pass-pipeline='cse,,cse' 2>&1 | FileCheck %s --check-prefix=GAP
// GAP: pipeline 'cse,,cse': an entry is empty

// RUN: not sparseflow-opt %s --pass-pipeline='func.func(cse' 2>&1 | FileCheck %s --check-prefix=OPEN
// OPEN: pipeline 'func.func(cse': '(' is never closed

// RUN: not sparseflow-opt %s --pass-pipeline='cse)' 2>&1 | FileCheck %s --check-prefix=CLOSED
// CLOSED: pipeline 'cse)': ')' at 3 closes nothing

// RUN: not sparseflow-opt %s --pass-pipeline='cse{}x' 2>&1 | FileCheck %s --check-prefix=AFTER
// AFTER: pipeline 'cse{}x': 'x' follows a bracket

// RUN: not sparseflow-opt %s --pass-pipeline='builtin.module(func.func(match-sparse-linear))' 2>&1 | FileCheck %s --check-prefix=NESTED
// NESTED: pass 'match-sparse-linear': runs on a module, not inside 'func.func(

// RUN: not sparseflow-opt %s --pass-pipeline='match-sparse-linear(cse)' 2>&1 | FileCheck %s --check-prefix=BODY
// BODY: pass 'match-sparse-linear': takes no passes inside

// RUN: not sparseflow-opt %s -o /no/such/folder/x.mlir 2>&1 | FileCheck %s --check-prefix=OUT
// OUT: output '/no/such/folder/x.mlir': can't be written: No such file or directory

// RUN: not sparseflow-opt %s --list-passes=html 2>&1 | FileCheck %s --check-prefix=CHOICE
// CHOICE: command line: argument --list-passes: invalid choice: 'html'

// RUN: not sparseflow-opt %s --emit-bytecode --split-input-file 2>&1 | FileCheck %s --check-prefix=SPLIT
// SPLIT: --emit-bytecode and --split-input-file exclude each other

module {}
