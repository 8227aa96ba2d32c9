"""SparseFlow: a compiler that makes PyTorch models faster with structured sparsity."""
