#define SPARSEFLOW_ISA avx512bf16
#include "table.h"
