"""What every room may use: checks of arguments, progress bars, lazy names. It imports no other room."""
