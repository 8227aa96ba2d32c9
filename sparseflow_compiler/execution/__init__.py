"""What runs a lowered graph: inductor, CUDA graphs, and what makes whole calls of it."""
