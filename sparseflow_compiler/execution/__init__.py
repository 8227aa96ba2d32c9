"""Execute lowered graphs: inductor, CUDA graphs, generation and warm-up."""
