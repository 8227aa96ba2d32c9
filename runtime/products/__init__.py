"""Products with packed weights as callers ask for them: which policy a layer gets, and `sparse_mm`."""
