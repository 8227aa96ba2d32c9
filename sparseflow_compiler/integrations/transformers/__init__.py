"""What SparseFlow knows of transformers: its versions, names, caches, models and hooks for other weights."""
