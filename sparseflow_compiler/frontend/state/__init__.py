"""A model's state besides weights: copied for a trace, compared after it, carried between calls."""
