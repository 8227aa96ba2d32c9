"""What a model holds besides weights: copied for a trace, compared after it, carried from call to call."""
