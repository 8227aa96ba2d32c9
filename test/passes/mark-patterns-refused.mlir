// RUN: not sparseflow-opt %s --mark-patterns 2>&1 | FileCheck %s --check-prefix=NONE
// NONE: pass 'mark-patterns': has no table
// NONE: Give one: mark-patterns{table=patterns.json}.

// RUN: not sparseflow-opt %s --mark-patterns=table=%t.missing 2>&1 | FileCheck %s --check-prefix=MISSING
// MISSING: can't be read: {{.*}}No such file

// RUN: echo '{"a.weight": 3}' > %t.json && not sparseflow-opt %s --mark-patterns=table=%t.json 2>&1 | FileCheck %s --check-prefix=KIND
// KIND: table of patterns, entry 'a.weight': is none of the formats 2:4, 4:6, 6:8, 2:4-fp8: 3

// RUN: echo '{"a.weight": "1:4"}' > %t.json && not sparseflow-opt %s --mark-patterns=table=%t.json 2>&1 | FileCheck %s --check-prefix=UNKNOWN
// UNKNOWN: entry 'a.weight': is none of the formats 2:4, 4:6, 6:8, 2:4-fp8: '1:4'
// UNKNOWN: Write {"layer.weight": "6:8"}, the name of a format that stores the pattern.

module {}
