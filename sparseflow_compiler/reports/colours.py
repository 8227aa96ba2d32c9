"""The colours of all charts."""

from __future__ import annotations

COLOURS = ("#4477aa", "#ee6677", "#ccbb44", "#bbbbbb")
"""The first colours of Paul Tol's "bright" scheme, which colour-blind readers can tell apart."""
