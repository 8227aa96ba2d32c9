#define SPARSEFLOW_ISA plain
#include "table.h"
