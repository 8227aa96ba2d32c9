"""The façade: `sparseflow.compile`, `load` and `tune`, and the compiled model."""
