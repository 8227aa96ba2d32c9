"""Products with packed weights: which policy a layer gets, and `sparse_mm`."""
