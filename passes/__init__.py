"""MLIR passes over the Torch and sparse_gemm dialects, one a file. Never imports torch."""
