"""Estimate what a speed-up saves in GPUs and money."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from fractions import Fraction

from sparseflow.errors import ArgumentError

HOURS_A_MONTH = 730
MONTHS_A_YEAR = 12
SECONDS_A_DAY = 86400

_ZERO_OR_MORE = {"gpu_hourly_cost": math.inf, "monthly_fee": math.inf, "efficiency": 1.0}
"""The largest value of each figure that may be 0; all others must be positive."""


@dataclass(frozen=True)
class Workload:
    """A service and the measured speed-up of its model.

    Attributes:
        tokens_per_day: tokens that it serves.
        tokens_per_request: tokens of one request.
        dense_rps_per_gpu: requests a second that one GPU serves with the dense model.
        speedup: of the compiled model, as measured.
        gpu_hourly_cost: dollars an hour for one GPU.
        efficiency: the share of the gain that the service keeps, 0 … 1.
        monthly_fee: dollars a month that using it costs.

    Raises:
        ArgumentError: a figure is not finite or out of its range.
    """

    tokens_per_day: float
    tokens_per_request: float
    dense_rps_per_gpu: float
    speedup: float
    gpu_hourly_cost: float
    efficiency: float = 0.9
    monthly_fee: float = 0.0

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            most = _ZERO_OR_MORE.get(name)
            if most is None:
                fits, allowed = value > 0, "more than 0"
            else:
                fits, allowed = 0 <= value <= most, "0 or more" if most == math.inf else f"from 0 to {most:g}"
            if not fits or not math.isfinite(value):
                raise ArgumentError(f"--{name.replace('_', '-')} {value}", f"must be {allowed} and finite")

    def saving(self) -> Saving:
        """Return the saving in GPUs and dollars."""
        # Exact arithmetic: rounding must not add a GPU if the figures divide evenly.
        exact = {name: Fraction(str(value)) for name, value in asdict(self).items()}
        rps = exact["tokens_per_day"] / exact["tokens_per_request"] / SECONDS_A_DAY
        gain = 1 + exact["efficiency"] * (exact["speedup"] - 1)
        uplift = max(Fraction(1), min(gain, exact["speedup"]))
        dense, sparse = (math.ceil(rps / (exact["dense_rps_per_gpu"] * by)) for by in (1, uplift))
        gross = (dense - sparse) * exact["gpu_hourly_cost"] * HOURS_A_MONTH
        return Saving(
            float(rps), float(uplift), dense, sparse, float(gross), float(gross - exact["monthly_fee"])
        )


@dataclass(frozen=True)
class Saving:
    """The saving for a workload.

    Attributes:
        rps: requests a second.
        uplift: how many times more requests a GPU serves.
        gpus_dense: GPUs that the dense model needs.
        gpus_sparse: GPUs that the compiled model needs.
        gross_monthly: dollars a month for the GPUs that are no longer needed.
        monthly: the same less the fee; negative where it costs more than it saves.
    """

    rps: float
    uplift: float
    gpus_dense: int
    gpus_sparse: int
    gross_monthly: float
    monthly: float

    @property
    def yearly(self) -> float:
        """The saving in dollars a year."""
        return MONTHS_A_YEAR * self.monthly

    @property
    def worth_it(self) -> bool:
        """Whether anything is saved."""
        return self.monthly > 0

    @property
    def verdict(self) -> str:
        """The conclusion in a sentence."""
        if self.worth_it:
            return f"It saves {dollars(self.monthly)} a month, {dollars(self.yearly)} a year."
        if self.monthly < 0:
            return (
                f"Don't: it loses {dollars(-self.monthly)} a month; the fee is more than the "
                f"{dollars(self.gross_monthly)} that it saves in GPUs."
            )
        return f"Don't: it saves nothing, {self.gpus_dense} GPUs are needed either way."

    def to_dict(self) -> dict[str, object]:
        """Return everything, ready for JSON."""
        return asdict(self) | {"yearly": self.yearly, "worth_it": self.worth_it, "verdict": self.verdict}


def dollars(amount: float) -> str:
    """Format an amount as −$3,175 or $2.50."""
    text = f"{abs(amount):,.2f}".removesuffix(".00")
    return f"−${text}" if amount < 0 else f"${text}"
