"""Reconstruct weights by least squares, so that outputs in the pruned model approximate the dense ones."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from itertools import repeat

import torch
from torch import Tensor

from sparseflow.errors import CalibrationError
from sparseflow.runtime.thread_count import thread_count

RIDGE = 0.4
"""Times K / rows: what holds a layer to its old weights, as a share of XᵀX's mean diagonal. The fewer rows
there are for an unknown, the more of what they say is chance."""

_EXACT_UP_TO = 2048
"""Features K up to which each row's system is factored; above, (K/2)³ a row costs more than steps do."""
_CHUNK_ELEMENTS = 1 << 25
_CPU_CHUNK_ELEMENTS = 1 << 20
"""What a core's cache holds."""
_TOLERANCE = 1e-4
_MAX_STEPS = 200


class LeastSquares:
    """``min ‖X W'ᵀ − D Wᵀ‖² + λ ‖W' − W‖²`` over W', with or without a mask.

    Args:
        weight: the dense layer's W, ``[N, K]``.
        gram: ``XᵀX / rows``, ``[K, K]``, float32 or float64, of the inputs X of the pruned model.
        cross: ``DᵀX / rows``, ``[K, K]``, with D the dense model's inputs for these rows; None where D is X.
        rows: the number of calibration rows.
        damping: λ is at least this share of the mean of the diagonal of `gram`.
        name: how errors call the layer.
    """

    def __init__(
        self, weight: Tensor, gram: Tensor, cross: Tensor | None, rows: int, damping: float, name: str
    ) -> None:
        weight = weight.to(gram.dtype)
        diagonal = gram.diagonal()
        ridge = max(damping, RIDGE * gram.shape[0] / rows) * diagonal.mean().clamp(min=1e-30)
        self._right = weight @ (gram if cross is None else cross) + ridge * weight
        self._matrix = gram.clone()
        self._matrix.diagonal().add_(ridge)
        self._name = name

    def dense(self) -> Tensor:
        """Return the unmasked solution ``[N, K]``, the weights to prune.

        Raises:
            CalibrationError: the damped matrix is not positive definite.
        """
        return torch.cholesky_solve(self._right.t(), self._factor(self._matrix)).t()

    def on_support(self, start: Tensor) -> Tensor:
        """Return the solution with zeros where `start` ``[N, K]`` has zeros; float32 or float64.

        Exact up to K = 2048. Above, conjugate gradients from `start` on all rows at once, of which a step is
        one product with the matrix, until the residual is below 1e-4 of the right-hand side.

        Raises:
            CalibrationError: a row's matrix is not positive definite.
        """
        keep = start != 0
        if start.shape[1] > _EXACT_UP_TO:
            return self._by_gradients(start, keep)
        most = max(1, int(keep.sum(1).max()))
        on_cpu = start.device.type == "cpu"
        rows = max(1, (_CPU_CHUNK_ELEMENTS if on_cpu else _CHUNK_ELEMENTS) // most**2)
        parts = torch.split(keep, rows), torch.split(self._right, rows), repeat(most)
        if not on_cpu:
            return torch.cat(list(map(self._by_factors, *parts)))
        # LAPACK's threads gain nothing on matrices that small, and wait for each other after every step.
        threads = torch.get_num_threads()
        with thread_count(1), ThreadPoolExecutor(threads) as pool:
            return torch.cat(list(pool.map(self._by_factors, *parts)))

    def _factor(self, matrix: Tensor) -> Tensor:
        factor: Tensor
        factor, failed = torch.linalg.cholesky_ex(matrix)
        if failed.any():
            raise CalibrationError(
                f"layer {self._name}",
                "XᵀX of its inputs is not positive definite, damped as it is",
                "raise damping, or calibrate on more and more varied data",
            )
        return factor

    @torch.no_grad()  # a thread begins with gradients on
    def _by_factors(self, keep: Tensor, right: Tensor, most: int) -> Tensor:
        # In order: the matrix is read in its order then.
        columns = keep.byte().topk(most, dim=1).indices.sort(1).values
        # Rows that keep fewer are padded with equations x = 0.
        kept = keep.gather(1, columns)
        matrix = self._matrix[columns[:, :, None], columns[:, None, :]]
        if not kept.all():
            matrix *= kept[:, :, None] & kept[:, None, :]
            matrix.diagonal(dim1=1, dim2=2).add_(~kept)
        factor = self._factor(matrix)
        # Of single columns, cholesky_solve takes three times as long on CPUs.
        half = torch.linalg.solve_triangular(
            factor, (right.gather(1, columns) * kept)[..., None], upper=False
        )
        values = torch.linalg.solve_triangular(factor.mT, half, upper=True)
        return torch.zeros_like(right).scatter_(1, columns, values[..., 0] * kept)

    def _by_gradients(self, start: Tensor, keep: Tensor) -> Tensor:
        right = self._right * keep
        solution = start.to(right.dtype, copy=True)
        scale = self._matrix.diagonal()
        residual = right - solution @ self._matrix * keep
        direction = residual / scale
        power = (residual * direction).sum(1, keepdim=True)
        enough = _TOLERANCE * torch.linalg.vector_norm(right)
        for _ in range(_MAX_STEPS):
            if torch.linalg.vector_norm(residual) <= enough:
                break
            product = direction @ self._matrix * keep
            length = _ratio(power, (direction * product).sum(1, keepdim=True))
            solution += length * direction
            residual -= length * product
            scaled = residual / scale
            previous, power = power, (residual * scaled).sum(1, keepdim=True)
            direction = scaled + _ratio(power, previous) * direction
        return solution


def _ratio(over: Tensor, under: Tensor) -> Tensor:
    """Divide, returning 0 for rows that are solved already."""
    return torch.where(under > 0, over / under, 0)
