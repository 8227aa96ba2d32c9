"""Profile where a model's time goes, before and after compiling, and the limit of sparse speed-ups."""

from __future__ import annotations

from sparseflow.profiling.measure_model import profile
from sparseflow.profiling.profile_result import Profile, Side

__all__ = ["Profile", "Side", "profile"]
