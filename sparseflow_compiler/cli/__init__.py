"""The command `sparseflow`: one file a subcommand."""
