"""The command `sparseflow`, one file for each subcommand."""
