"""What torch's FlashAttention takes, for passes too: nothing here needs torch."""

DTYPES = ("f16", "bf16")
"""Dtypes of queries, keys and values, as MLIR calls them."""

WIDTHS = range(8, 257, 8)
"""Widths of a head: it reads 16 bytes at once."""
