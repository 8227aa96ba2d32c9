"""Plugins for transformers: the quantizer that loads packed folders, and a callback of the Trainer."""
