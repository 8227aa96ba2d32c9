"""The sparse_gemm dialect: its operations, their verifiers, and how to load it into a context."""
