#define SPARSEFLOW_ISA avx512
#include "table.h"
