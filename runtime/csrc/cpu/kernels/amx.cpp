#define SPARSEFLOW_ISA amx
#include "table.h"
