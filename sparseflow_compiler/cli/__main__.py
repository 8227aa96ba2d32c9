"""``python -m sparseflow.cli``: the command where its script isn't on the path."""

from sparseflow.cli.main import console_main

console_main()
