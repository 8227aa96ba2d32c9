// RUN: not sparseflow-opt %t.missing --cse >%t.out 2>%t.err
// RUN: test ! -s %t.out
// RUN: FileCheck %s --input-file %t.err --check-prefix=MISSING
// MISSING: sparseflow-opt: error: {{.*}}.missing: can't be read: No such file or directory

// RUN: not sparseflow-opt %S 2>&1 | FileCheck %s --check-prefix=FOLDER
// FOLDER: can't be read: Is a directory

// RUN: echo -n "" > %t.empty && not sparseflow-opt %t.empty 2>&1 | FileCheck %s --check-prefix=EMPTY
// RUN: not sparseflow-opt < %t.empty 2>&1 | FileCheck %s --check-prefix=EMPTY
// EMPTY: is empty

// RUN: printf '\377\376module {}' > %t.latin && not sparseflow-opt %t.latin 2>&1 | FileCheck %s --check-prefix=UTF8
// UTF8: isn't UTF-8 text: byte 0xff at offset 0

// RUN: echo '"sparse_gemm.no\ed"() : () -> ()' > %t.escape && not sparseflow-opt %t.escape 2>&1 | FileCheck %s --check-prefix=ESCAPE
// RUN: echo '%0 = "sparse_gemm.weight"() {name = "\C3("} : () -> !torch.vtensor<[8],f32>' > %t.name
// RUN: not sparseflow-opt %t.name 2>&1 | FileCheck %s --check-prefix=ESCAPE
// ESCAPE: sparseflow-opt: error: {{.*}}:1: has a string that isn't UTF-8: "{{.*\\(ed|C3).*}}"
// RUN: echo 'func.func private @"caf\C3\A9 \\ed" () // "\ed"' | sparseflow-opt | FileCheck %s --check-prefix=ACCENT
// ACCENT: @"caf\C3\A9 \\ed"

// RUN: printf 'module\000 {}' > %t.binary && not sparseflow-opt %t.binary 2>&1 | FileCheck %s --check-prefix=BINARY
// BINARY: is binary: a zero byte at offset 6

// RUN: printf 'ML\357Rgarbage' > %t.bytecode && not sparseflow-opt %t.bytecode 2>&1 | FileCheck %s --check-prefix=BYTECODE
// BYTECODE: sparseflow-opt: error: {{.*}}: {{.*}}bytecode

// RUN: not sparseflow-opt %s >%t.out 2>%t.err
// RUN: test ! -s %t.out
// RUN: FileCheck %s --input-file %t.err --check-prefix=SYNTAX
// SYNTAX: sparseflow-opt: error: {{.*}}bad-input.mlir:40:38: expected ':'
// SYNTAX-NOT: Traceback

// RUN: echo 'module { "no.such"() : () -> () }' | not sparseflow-opt 2>&1 | FileCheck %s --check-prefix=DIALECT
// DIALECT: -:1:19: operation being parsed with an unregistered dialect
// RUN: echo 'module { "no.such"() : () -> () }' | sparseflow-opt --allow-unregistered-dialect --canonicalize | FileCheck %s --check-prefix=ALLOWED
// ALLOWED: "no.such"()

  "sparse_gemm.weight"() {name = "w"}
