"""Validate products with packed weights against fp64 on this machine.

The bound grows with the magnitudes that are summed, not with the sum, which may cancel:

    |y − x·Wᵀ| ≤ a + u·(|x·Wᵀ| + a) + t,   a = 4·(√K + 4)·ε·(|x|·|W|ᵀ)

ε is the epsilon of float32, in which all kernels accumulate: K roundings in any order err by about √K ε; u is
half the epsilon of y's dtype, to which the sum is rounded once, and t its smallest normal number.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from sparseflow.errors import SparseFlowError
from sparseflow.runtime import Policy, compress_2_4, prune_24, sparse_mm
from sparseflow.runtime.checks import dtype_name
from sparseflow.runtime.device_weight import DeviceWeight
from sparseflow.runtime.kernels import Choice, Problem, sparse_kernels
from sparseflow.runtime.packed import PackedWeight
from sparseflow.runtime.products import which
from sparseflow.support.text_table import Column, text_table

if TYPE_CHECKING:
    from sparseflow.support.progress import Step

PRODUCTION = (
    (512, 512, 512),
    (1024, 1024, 1024),
    (2048, 2048, 2048),
    (4096, 4096, 4096),
    (128, 4096, 4096),
    (512, 4096, 4096),
    (2048, 4096, 4096),
    (512, 11008, 4096),
    (2048, 11008, 4096),
    (512, 4096, 11008),
    (2048, 4096, 11008),
)
"""M, N and K of the products that a release must compute correctly."""

SAMPLE = 64
"""Rows and columns of y that are compared on a CPU, where fp64 of all entries would take minutes."""

_PIECE = 1 << 20
"""Entries of an operand that are converted to fp64 at a time."""


@dataclasses.dataclass(frozen=True)
class Check:
    """The check of one product.

    Attributes:
        m: rows of x.
        n: out features.
        k: in features.
        dtype: of x, W and y.
        runs: the backend; empty if none could.
        compared: entries of y that were compared.
        rel_err: ‖y − ref‖ / ‖ref‖ over these.
        of_bound: the largest |y − ref| / bound among them: above 1 the product is wrong; infinite for NaN.
        why: what failed, in a sentence; empty if nothing did.
    """

    m: int
    n: int
    k: int
    dtype: str
    runs: str = ""
    compared: int = 0
    rel_err: float = math.inf
    of_bound: float = math.inf
    why: str = ""

    @property
    def ok(self) -> bool:
        """Whether the product is right."""
        return not self.why

    def to_dict(self) -> dict[str, object]:
        """Return everything, ready for JSON; non-finite figures are None."""
        fields = {
            name: None if isinstance(value, float) and not math.isfinite(value) else value
            for name, value in dataclasses.asdict(self).items()
        }
        upper = {name.upper(): fields.pop(name) for name in ("m", "n", "k")}
        return {**upper, **fields, "ok": self.ok}


_COLUMNS: tuple[Column, ...] = (
    ("M×N×K", "left"),
    ("dtype", "left"),
    ("runs", "left"),
    ("rel. err", "right"),
    ("of bound", "right"),
)


@dataclasses.dataclass(frozen=True)
class Validation:
    """The result of a validation.

    Attributes:
        device: where, in words.
        sample: most rows and columns compared; None: all.
        checks: one for each product.
    """

    device: str
    sample: int | None
    checks: tuple[Check, ...]

    @property
    def ok(self) -> bool:
        """Whether every product is right, and there is one."""
        return bool(self.checks) and all(check.ok for check in self.checks)

    def to_dict(self) -> dict[str, object]:
        """Return everything, ready for JSON."""
        rows = [check.to_dict() for check in self.checks]
        bound = "4(√K+4)·eps(float32)·|x||W|ᵀ, and one rounding of y"
        meta = {"kind": "validate", "device": self.device, "bound": bound, "sample": self.sample}
        return {"meta": meta, "ok": self.ok, "rows": rows}

    def table(self, width: int = 110) -> str:
        """Return the result as text, one line a product."""
        rows = [
            (
                f"{'✓' if check.ok else '✗'} {check.m}×{check.n}×{check.k}",
                check.dtype,
                check.runs if check.ok else f"{check.runs}: {check.why}".removeprefix(": "),
                f"{check.rel_err:.1e}",
                f"{check.of_bound:.3f}",
            )
            for check in self.checks
        ]
        return text_table(self.device, _COLUMNS, rows, ("", self._summary()), width)

    def _summary(self) -> str:
        right = sum(check.ok for check in self.checks)
        part = f"up to {self.sample} rows and {self.sample} columns of each" if self.sample else "every entry"
        return f"{right} of {len(self.checks)} products are right; compared with fp64: {part}."


def validate(
    products: Iterable[tuple[int, int, int]],
    dtypes: Sequence[torch.dtype],
    device: torch.device,
    *,
    sample: int | None = SAMPLE,
    seed: int = 0,
    progress: Step | None = None,
) -> Validation:
    """Multiply by random 2:4 weights and compare with fp64.

    Each product is checked as the policy "sparse" runs it: on a CPU by SparseFlow's kernel; on a GPU by the
    best algorithm of the tuned tables, or by the library's first one if they have none; and densely if the
    dtype or device allows nothing else. Registered kernels that can implement a product are checked too. Each
    check says what ran.

    Args:
        products: (M, N, K), each at least 1.
        dtypes: float32, bfloat16 or float16.
        device: where to run.
        sample: compare this many rows and columns of each product, evenly spread from the first to the last;
            None compares everything.
        seed: the seed of the random numbers.
        progress: called for each product.
    """
    from sparseflow.profiling.measure_model import device_name

    by_weight: dict[tuple[torch.dtype, int, int], list[int]] = {}
    for dtype in dtypes:
        for m, n, k in products:
            by_weight.setdefault((dtype, n, k), []).append(m)
    done, total, checks = 0, sum(map(len, by_weight.values())), list[Check]()
    generator = torch.Generator(device).manual_seed(seed)
    with torch.inference_mode():
        for (dtype, n, k), ms in by_weight.items():
            weight = prune_24(torch.randn(n, k, generator=generator, device=device).to(dtype))
            packed = compress_2_4(weight)
            for m in ms:
                if progress is not None:
                    progress(done, total, f"{m}×{n}×{k} {dtype_name(dtype)}")
                done += 1
                x = torch.randn(m, k, generator=generator, device=device).to(dtype)
                checks += _checks(x, weight, packed, sample)
    return Validation(device_name(device), sample, tuple(checks))


def _checks(x: Tensor, weight: Tensor, packed: PackedWeight, sample: int | None) -> Iterator[Check]:
    """Yield a check for each way of running the product."""
    check = Check(len(x), len(weight), x.shape[1], dtype_name(x.dtype))
    for policy, why in _ways(packed, len(x)):
        try:
            yield _checked(check, x, weight, packed, policy, why, sample)
        except (SparseFlowError, RuntimeError) as error:  # errors of the device are findings too
            yield dataclasses.replace(check, why=str(error).partition("\n")[0])


def _ways(packed: PackedWeight, m: int) -> Iterator[tuple[Policy, str]]:
    """Yield the policies to check, and why one is dense: those of mode "sparse" and of registered kernels."""
    shape, dtype, device = packed.shape, packed.dtype, packed.device
    n, k = shape
    found = which.policies([(n, k)], dtype, device, mode="sparse", tune="off")[n, k]
    yield which.runnable(found), found if isinstance(found, str) else ""
    problem = Problem(dtype_name(dtype), n, k, str(device), m)
    for kernel in sparse_kernels(device.type):
        if kernel.is_registered and kernel.can_implement(problem) is None:
            yield Policy.parse(f"1:{Choice(kernel.name)}"), ""


def _checked(
    check: Check,
    x: Tensor,
    weight: Tensor,
    packed: PackedWeight,
    policy: Policy,
    why: str,
    sample: int | None,
) -> Check:
    if not torch.equal(packed.unpack(), weight):
        return dataclasses.replace(check, why="the packed weight is not the weight")
    runs = f"dense: {why}" if why else _prepared(packed, policy, len(x))
    y = sparse_mm(x, packed, policy=policy)
    compared, rel_err, of_bound = _compare(y, x, weight, sample)
    return dataclasses.replace(
        check,
        runs=runs,
        compared=compared,
        rel_err=rel_err,
        of_bound=of_bound,
        why="" if of_bound <= 1 else "wrong product",
    )


def _prepared(packed: PackedWeight, policy: Policy, m: int) -> str:
    """Build the plans of a policy for m rows; return what runs."""
    choice = policy.choice(m)
    if packed.device.type != "cuda":
        isa: str = torch.ops.sparseflow.cpu_isa()
        return f"cpu ({isa})" if choice.kernel == "cpu" else str(choice)
    from sparseflow.runtime import gpu

    weight = DeviceWeight(packed.values, packed.positions, packed.in_features)
    gpu.prepare(weight, [m], policy.to_ints())
    return gpu.path(weight, m, policy.to_ints())


def _compare(y: Tensor, x: Tensor, weight: Tensor, sample: int | None) -> tuple[int, float, float]:
    """Return the number of compared entries, relative error, and largest share of the error bound."""
    rows, columns = _spread(y.shape[0], sample, y.device), _spread(y.shape[1], sample, y.device)
    parts = [(y[rows], x[rows], weight)]
    if rows.numel() < y.shape[0]:
        parts.append((y[:, columns].T, weight[columns], x))
    wrong, whole, share = 0.0, 0.0, 0.0
    for part, few, many in parts:
        for error, exact, bound in _errors(part, few, many):
            ratio = float((error / bound).max())
            share = max(share, ratio if math.isfinite(ratio) else math.inf)
            wrong += float(error.square().sum())
            whole += float(exact.square().sum())
    return sum(part.numel() for part, _, _ in parts), math.sqrt(wrong / whole), share


def _errors(y: Tensor, few: Tensor, many: Tensor) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Yield by pieces |y − few · manyᵀ|, that product, and the bound of this module's docstring.

    Pieces are small: fresh memory for wide copies of whole operands would cost more than the arithmetic.
    """
    wide, magnitudes, info = few.double(), few.float().abs(), torch.finfo(y.dtype)
    factor = 4 * (math.sqrt(few.shape[1]) + 4) * torch.finfo(torch.float32).eps
    step = max(1, _PIECE // few.shape[1])
    for start in range(0, len(many), step):
        piece = many[start : start + step]
        exact = wide @ piece.double().T
        accumulated = factor * (magnitudes @ piece.float().abs().T).double()
        bound = accumulated + info.eps / 2 * (exact.abs() + accumulated) + info.smallest_normal
        yield (y[:, start : start + step].double() - exact).abs(), exact, bound


def _spread(size: int, most: int | None, device: torch.device) -> Tensor:
    """Return at most `most` indices below `size`, evenly spread from first to last."""
    count = size if most is None else min(size, most)
    return torch.linspace(0, size - 1, count, device=device, dtype=torch.float64).round().long()
