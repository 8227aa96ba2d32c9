"""A model's calling convention: how calls become program inputs, and program results the output."""
