"""The public API: what `sparseflow.compile` does, the compiled model, its report."""
