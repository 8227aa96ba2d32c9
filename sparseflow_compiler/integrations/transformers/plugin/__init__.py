"""What SparseFlow plugs into transformers: the quantizer of packed folders, a callback of its Trainer."""
