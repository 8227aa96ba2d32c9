// MLIR's parser reserves a place for each result that a number implies: an error with its line instead.

// RUN: not sparseflow-opt %s 2>&1 | FileCheck %s
// RUN: not sparseflow-opt --allow-unregistered-dialect < %s 2>&1 | FileCheck %s
// CHECK: sparseflow-opt: error: {{.*}}:15:27: '%a#400000000' names a result that can't exist

// RUN: echo '"no.such"(%%a#99999999999999999999) : (i1) -> ()' | not sparseflow-opt --allow-unregistered-dialect 2>&1 | FileCheck %s --check-prefix=UNREGISTERED
// UNREGISTERED: error: -:1:11: '%a#99999999999999999999' names

// RUN: echo 'module attributes {x.a = "%%a#400000000"} {} // %%a#400000000' | sparseflow-opt | FileCheck %s --check-prefix=TEXT
// TEXT: x.a = "%a#400000000"

func.func @main(%a: !torch.int) {
  // What is above in comments is no result.
  %0 = torch.operator "x"(%a#400000000) : (!torch.int) -> !torch.int
  return
}
