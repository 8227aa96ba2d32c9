"""The quantization method ``sparseflow`` of vLLM: 2:4 linear layers in its engines.

vLLM finds it by an entry point (`registration`); nothing here is imported otherwise.
"""
