"""The calling convention of a model: how a call becomes a program's inputs, and its results the output."""
