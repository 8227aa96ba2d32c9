"""The colours of all charts."""

from __future__ import annotations

COLOURS = ("#4477aa", "#ee6677", "#ccbb44", "#bbbbbb")
"""Of Tol's bright scheme: colour-blind eyes tell them apart."""
