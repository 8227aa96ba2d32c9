// RUN: not sparseflow-opt %s --apply-policy 2>&1 | FileCheck %s --check-prefix=NONE
// NONE: pass 'apply-policy': has no table
// NONE: Give one: apply-policy{table=policies.json}.

// RUN: not sparseflow-opt %s --apply-policy=table= 2>&1 | FileCheck %s --check-prefix=EMPTY
// EMPTY: pass 'apply-policy', option 'table': needs the path of a JSON file

// RUN: not sparseflow-opt %s --apply-policy=table=%t.missing 2>&1 | FileCheck %s --check-prefix=MISSING
// MISSING: can't be read: {{.*}}No such file

// RUN: echo '{' > %t.json && not sparseflow-opt %s --apply-policy=table=%t.json 2>&1 | FileCheck %s --check-prefix=SYNTAX
// SYNTAX: can't be read: Expecting property name

// RUN: echo '[]' > %t.json && not sparseflow-opt %s --apply-policy=table=%t.json 2>&1 | FileCheck %s --check-prefix=OBJECT
// OBJECT: isn't a JSON object

// RUN: echo '{"f32:1x1": 3}' > %t.json && not sparseflow-opt %s --apply-policy=table=%t.json 2>&1 | FileCheck %s --check-prefix=KIND
// KIND: policy table, entry 'f32:1x1': is neither a policy nor dense: 3

// RUN: echo '{"f32:1x1": "1:gpu"}' > %t.json && not sparseflow-opt %s --apply-policy=table=%t.json 2>&1 | FileCheck %s --check-prefix=POLICY
// POLICY: policy table, entry 'f32:1x1': has a malformed policy '1:gpu': unknown kernel 'gpu'

// RUN: echo '{"f32:1x1": {"dense": "x", "policy": "1:gpu"}}' > %t.json && not sparseflow-opt %s --apply-policy=table=%t.json 2>&1 | FileCheck %s --check-prefix=POLICY

// RUN: echo '{"f32:1x1": {"policy": "1:cpu", "keeps_dense": true}}' > %t.json && not sparseflow-opt %s --apply-policy=table=%t.json 2>&1 | FileCheck %s --check-prefix=KEPT
// KEPT: policy table, entry 'f32:1x1': keeps a dense weight, but its policy '1:cpu' runs densely for no M

// RUN: echo '{"f32:1x1": {"keeps_dense": true}}' > %t.json && not sparseflow-opt %s --apply-policy=table=%t.json 2>&1 | FileCheck %s --check-prefix=BARE
// BARE: policy table, entry 'f32:1x1': is neither a policy nor dense

module {}
