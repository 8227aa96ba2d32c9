"""Attention of queries over caches: few queries, prompts, and what FlashAttention takes."""
