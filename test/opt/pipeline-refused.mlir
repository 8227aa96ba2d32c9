// RUN: not sparseflow-opt %s --pipeline=runtme 2>&1 >%t | FileCheck %s --check-prefix=TYPO
// RUN: test ! -s %t
// TYPO: pipeline 'runtme': is unknown
// TYPO-NEXT: Did you mean 'runtime'? `sparseflow-opt --list-pipelines` lists all pipelines.

// RUN: not sparseflow-opt %s --pipeline='runtime{nope=1}' 2>&1 | FileCheck %s --check-prefix=OPTION
// OPTION: pipeline 'runtime': has no option 'nope'
// OPTION-NEXT: Its options are queries, dense, patterns, contextual, columns, outside-reason, skip, format, head, head-format, policies, memory.

// An option of a later phase does nothing, so it is refused.
// RUN: not sparseflow-opt %s --pipeline='merged{memory=fast}' 2>&1 | FileCheck %s --check-prefix=LATER
// LATER: pipeline 'merged': has no option 'memory'

// RUN: not sparseflow-opt %s --pipeline='canonical{skip=a}' 2>&1 | FileCheck %s --check-prefix=NOTHING
// NOTHING: pipeline 'canonical': has no option 'skip'
// NOTHING-NEXT: Its options are queries.

// RUN: not sparseflow-opt %s --pipeline='runtime{memory=small}' 2>&1 | FileCheck %s --check-prefix=VALUE
// VALUE: pipeline 'runtime', option 'memory': must be one of auto, compressed, fast, not 'small'

// RUN: not sparseflow-opt %s --pipeline='runtime{format=int4}' 2>&1 | FileCheck %s --check-prefix=QUANTIZE
// QUANTIZE: pipeline 'runtime', option 'format': must be one of 2:4, 4:6, 6:8, 2:4-fp8, not 'int4'

// RUN: not sparseflow-opt %s --pipeline='runtime{memory=fast memory=fast}' 2>&1 | FileCheck %s --check-prefix=TWICE
// TWICE: pipeline 'runtime': option 'memory' is given twice

// RUN: not sparseflow-opt %s --pipeline='runtime{policies=%t.missing}' 2>&1 | FileCheck %s --check-prefix=MISSING
// MISSING: can't be read: {{.*}}No such file

// RUN: not sparseflow-opt %s --pipeline='runtime{' 2>&1 | FileCheck %s --check-prefix=OPEN
// OPEN: pipeline 'runtime{': '{' is never closed

// RUN: not sparseflow-opt %s --pipeline='runtime,cse' 2>&1 | FileCheck %s --check-prefix=TWO
// TWO: pipeline 'runtime,cse': isn't a single name

// RUN: not sparseflow-opt %s --pipeline= 2>&1 | FileCheck %s --check-prefix=EMPTY
// EMPTY: pipeline '': isn't a single name

// RUN: not sparseflow-opt %s --pipeline=runtime --cse 2>&1 | FileCheck %s --check-prefix=FLAGS
// FLAGS: command line: --pipeline and flags of passes exclude each other

// RUN: not sparseflow-opt %s --pipeline=runtime --pass-pipeline=cse 2>&1 | FileCheck %s --check-prefix=BOTH
// BOTH: command line: --pass-pipeline and --pipeline exclude each other

// A pipeline is no pass.
// RUN: not sparseflow-opt %s --pass-pipeline=merged 2>&1 | FileCheck %s --check-prefix=PASS
// PASS: pass 'merged': is unknown

module {}
