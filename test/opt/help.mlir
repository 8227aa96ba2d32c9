// RUN: sparseflow-opt --help | FileCheck %s --check-prefix=HELP
// HELP: usage: sparseflow-opt
// HELP: --split-input-file
// HELP: --match-sparse-linear[=OPTIONS]
// HELP: --pipeline=runtime

// RUN: sparseflow-opt --list-passes | FileCheck %s --check-prefix=LIST
// LIST: --canonicalize-linear
// LIST: --match-sparse-linear
// LIST-NEXT: min-n=
// LIST-SAME: (default 16)
// LIST-NOT: --pipeline

// RUN: sparseflow-opt --list-pipelines | FileCheck %s --check-prefix=PIPELINES
// PIPELINES: --pipeline=canonical
// PIPELINES: --pipeline=sparse-gemm apply-policy
// PIPELINES-NEXT: policies=
// PIPELINES: memory={{.*}} (default auto)

// RUN: sparseflow-opt --list-passes=markdown | FileCheck %s --check-prefix=DOC
// DOC: # Passes
// DOC: ## match-sparse-linear
// DOC: | `min-n` | 16 |
