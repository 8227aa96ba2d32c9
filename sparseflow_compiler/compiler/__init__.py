"""Compile captured models to executable programs: the weight bank, measured decisions and their reasons."""
