// The gate of a product, for products whose kernel doesn't apply it.
#pragma once

#include "common/types.h"
#include "multiply.h"

namespace sparseflow::cuda {

// Returns activation(g) ⊙ u [..., n], for the halves g and u of the m rows of `product` [..., 2n].
Tensor gated(const char* op, const Tensor& product, int64_t m, Activation activation);

}  // namespace sparseflow::cuda
