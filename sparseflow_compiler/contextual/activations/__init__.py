"""Activation sparsity: thresholds below which linear layers leave out their inputs, chosen on text.

M: the product of the leading dimensions of a layer's input, K: its in features, N: its out features.
"""
