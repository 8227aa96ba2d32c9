"""``python -m sparseflow.cli``: the command, for environments whose scripts aren't on the path."""

from sparseflow.cli.main import console_main

console_main()
