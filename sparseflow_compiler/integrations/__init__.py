"""Libraries of others: what SparseFlow knows of each is in its room."""
