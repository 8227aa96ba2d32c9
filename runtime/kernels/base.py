"""The base class of kernels, and the problems that they are asked about."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from sparseflow.runtime.kernels.codes import FIRST_REGISTERED

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from sparseflow.runtime.device_weight import DeviceWeight
    from sparseflow.runtime.kernels.choice import Choice
    from sparseflow.runtime.tiled_weight import TiledWeight

    Weight: TypeAlias = DeviceWeight | TiledWeight
    """A weight in the layout of the GPU kernels."""


@dataclass(frozen=True)
class Problem:
    """A linear layer ``y = act(x · Wᵀ + bias) (+ residual)`` with any activation, bias and residual.

    Attributes:
        dtype: torch's name of the dtype that is multiplied, such as ``"float32"`` or ``"float8_e4m3fn"``.
        n: out features.
        k: in features.
        device: torch's name of the device, such as ``"cpu"`` or ``"cuda:0"``.
        m: rows of x; None stands for any number.
        format: the name of the packed weight's format.
    """

    dtype: str
    n: int
    k: int
    device: str = "cpu"
    m: int | None = None
    format: str = "2:4"

    @property
    def device_type(self) -> str:
        """The device without its index."""
        return self.device.partition(":")[0]


@dataclass(frozen=True)
class Kernel:
    """A way of running a linear layer with a packed weight.

    A kernel written in Python implements `product`, or `linear` if it also applies the epilogue. Native
    kernels are run by the operators in ``runtime/csrc``.

    Attributes:
        name: its name in policies and reports, in lower-case letters.
        code: the low byte of its code in the operators' ``policy``; None for a kernel that no policy names.
        device_type: ``"cpu"`` or ``"cuda"``; empty for both.
        dtypes: torch's names of the dtypes that it multiplies.
        about: a description in a phrase.
        formats: the names of the weight formats that it reads.
        dense: whether it multiplies by the dense weight, kept or decompressed.
        varied: whether it has algorithms or variants, numbered from 0.
        splits: the values of split-k to try: 0 for every algorithm, the others for the best ones only.
    """

    name: str
    code: int | None
    device_type: str
    dtypes: tuple[str, ...]
    about: str = ""
    formats: tuple[str, ...] = ("2:4",)
    dense: bool = False
    varied: bool = False
    splits: tuple[int, ...] = (0,)

    @property
    def is_registered(self) -> bool:
        """Whether it is implemented in Python; the native operators call back for its code."""
        return self.code is not None and self.code >= FIRST_REGISTERED

    def can_implement(self, problem: Problem) -> str | None:
        """Return None if this kernel can run a problem on this machine, else why it can't."""
        return self.unsuited(problem) or self.unusable(problem.device)

    def unsuited(self, problem: Problem) -> str | None:
        """Return why this kernel can't run a problem on any machine, or None."""
        if problem.n < 1 or problem.k < 1:
            return f"N and K must be at least 1, got N={problem.n}, K={problem.k}"
        if self.device_type not in ("", problem.device_type):
            return f"{self.name} runs on {self.device_type}, not on {problem.device_type}"
        if problem.format not in self.formats:
            return f"{self.name} reads weights of format {', '.join(self.formats)}, not {problem.format}"
        return None if problem.dtype in self.dtypes else self.unsuited_dtype(problem.dtype)

    def unsuited_dtype(self, dtype: str) -> str:
        """Return the reason to refuse a dtype that isn't among `dtypes`."""
        return f"{self.name} multiplies {', '.join(self.dtypes)}, not {dtype}"

    def unusable(self, device: str) -> str | None:
        """Return why this kernel can't run on a device of this machine, or None."""
        return None

    def candidates(self, problem: Problem, weight: Weight | None = None) -> tuple[Choice, ...]:
        """Return the choices to time for a problem that it can implement.

        Args:
            problem: a problem with a given `m`.
            weight: on a GPU, a weight of the problem's shape and dtype.
        """
        from sparseflow.runtime.kernels.choice import Choice  # here, because it imports the registry

        return (Choice(self.name),)

    def is_tried_with(self, m: int) -> bool:
        """Return whether it is worth trying with m rows of x."""
        return True

    def prepare(self, weight: Weight, m: int, choice: Choice) -> None:
        """Have worker threads build what calls of a choice with m rows need; by default, do nothing."""

    def taken(self, x: Tensor) -> Tensor:
        """Return x ``[M, K]`` of a problem's dtype as `run` takes it; the tuner doesn't time this."""
        return x

    def run(self, x: Tensor, weight: Weight, choice: Choice, out: torch.dtype) -> Tensor:
        """Multiply ``x · Wᵀ`` on a GPU, for the tuner.

        The tuner measures in a process that imports SparseFlow alone, so kernels that other packages register
        are neither known nor tuned there.

        Args:
            x: ``[M, K]``, as `taken` gives it.
            weight: W, ``[N, K]``.
            choice: a choice of this kernel.
            out: the dtype of the result.

        Raises:
            RuntimeError: the kernel can't run the product.
        """
        return self.product(x, weight.values, weight.positions, weight.in_features, choice).to(out)

    def product(
        self, x: Tensor, values: Tensor, positions: Tensor, in_features: int, choice: Choice
    ) -> Tensor:
        """Return ``x · Wᵀ``, ``[…, N]``; for kernels that are registered from Python.

        Args:
            x: ``[…, K]``.
            values: the values of the packed weight, in the layout of its device.
            positions: its positions, in the layout of its device.
            in_features: K.
            choice: a choice of this kernel.
        """
        raise NotImplementedError(f"{self.name} has no implementation in Python")

    def linear(
        self,
        x: Tensor,
        values: Tensor,
        positions: Tensor,
        bias: Tensor | None,
        residual: Tensor | None,
        in_features: int,
        epilogue: str,
        code: int,
    ) -> Tensor:
        """Run the whole layer, with the arguments of ``sparseflow::linear_registered``."""
        from sparseflow.runtime import epilogues
        from sparseflow.runtime.kernels.choice import Choice

        y = self.product(x, values, positions, in_features, Choice.from_code(code))
        return epilogues.finish(y, bias, epilogue, residual)
