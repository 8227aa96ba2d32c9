"""From MLIR back to an executable torch.fx graph."""
