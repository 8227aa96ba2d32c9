"""What a compiled model needs at run time: packed weights, operators, dispatch. Never imports torch_mlir."""
