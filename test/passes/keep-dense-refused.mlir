// RUN: not sparseflow-opt %s --keep-dense 2>&1 | FileCheck %s --check-prefix=NONE
// NONE: pass 'keep-dense': has no table
// NONE: Give one: keep-dense{table=dense.json}.

// RUN: not sparseflow-opt %s --keep-dense=table=%t.missing 2>&1 | FileCheck %s --check-prefix=MISSING
// MISSING: can't be read: {{.*}}No such file

// RUN: echo '{"a.weight": 3}' > %t.json && not sparseflow-opt %s --keep-dense=table=%t.json 2>&1 | FileCheck %s --check-prefix=KIND
// KIND: table of dense weights, entry 'a.weight': isn't a reason: 3

// RUN: echo '{"a.weight": ""}' > %t.json && not sparseflow-opt %s --keep-dense=table=%t.json 2>&1 | FileCheck %s --check-prefix=EMPTY
// EMPTY: table of dense weights, entry 'a.weight': isn't a reason: ''

// RUN: not sparseflow-opt %s --pass-pipeline='keep-dense{table="{1: 2}"}' 2>&1 | FileCheck %s --check-prefix=INLINE
// INLINE: pass 'keep-dense', option 'table': isn't a JSON object: Expecting property name

module {}
