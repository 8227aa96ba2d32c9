"""From nn.Module to MLIR: capture with torch.export, import with torch-mlir, weights by reference."""
