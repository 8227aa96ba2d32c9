#define SPARSEFLOW_ISA avx2
#include "table.h"
