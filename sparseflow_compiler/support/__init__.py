"""Helpers for every room: argument checks, progress bars, lazy names. Imports no other room."""
