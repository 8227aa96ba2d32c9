"""A weight as A · S · B: a 2:4 core between two block-diagonal matrices, by block coordinate descent.

The form is that of ARMOR (Liu et al. 2025, arXiv 2510.05528). The loss here is the layer's own,
``tr((W − ASB) H (W − ASB)ᵀ)`` with H = XᵀX whole, not its diagonal. Every step minimises over one of the
three with the others fixed, or is undone where the loss didn't fall, so that the loss never rises.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

RIDGE = 1e-6
"""Of the mean diagonal, added to what is inverted."""
CHUNKS = 16
"""Of columns: so many groups of a block's rows may change at once."""


def loss_of(weight: Tensor, approximation: Tensor, gram: Tensor) -> float:
    """Return tr(ΔHΔᵀ), Δ the difference of two weights ``[N, K]``, over that of the weight itself."""
    difference = weight - approximation
    return float(_rows_loss(difference, gram).sum() / _rows_loss(weight, gram).sum())


def on_support(weight: Tensor, start: Tensor, gram: Tensor, steps: int) -> Tensor:
    """Return the nonzeros of `start` fitted to a weight by conjugate gradients, ``[N, K]``."""
    support = (start != 0).to(start.dtype)
    return _conjugate_gradients(start, support, (weight - start) @ gram, lambda d: d @ gram, steps)


@dataclass
class Factors:
    """W ``[N, K]`` ≈ A · S · B.

    Attributes:
        weight: W.
        gram: H = XᵀX ``[K, K]``.
        block: rows and columns of the blocks of A and B; it divides N and K.
        a: the blocks of A, ``[N/block, block, block]``.
        s: S, ``[N, K]``, 2:4.
        b: the blocks of B, ``[K/block, block, block]``.
    """

    weight: Tensor
    gram: Tensor
    block: int
    a: Tensor
    s: Tensor
    b: Tensor

    @classmethod
    def of(cls, weight: Tensor, gram: Tensor, start: Tensor, block: int) -> Factors:
        """Return factors that equal `start`, a pruned weight: A and B are the identity."""
        n, k = weight.shape
        assert n % block == k % block == 0, f"blocks of {block} don't divide {n}×{k}"
        one = torch.eye(block, dtype=weight.dtype, device=weight.device)
        return cls(
            weight, gram, block, one.repeat(n // block, 1, 1), start.clone(), one.repeat(k // block, 1, 1)
        )

    def product(self) -> Tensor:
        """Return A · S · B, ``[N, K]``."""
        return self._left(self.a, self._right(self.s, self.b))

    def loss(self) -> float:
        """Return the loss relative to that of a weight of zeros."""
        return loss_of(self.weight, self.product(), self.gram)

    def sweep(self, steps: int, swaps: int) -> Iterator[tuple[str, float]]:
        """Update each part once; yield its name and the loss after it.

        Args:
            steps: of conjugate gradients for the values of S.
            swaps: rounds in which masks change.
        """
        for name, update in (
            ("A", self._update_a),
            ("B", self._update_b),
            ("masks", lambda: self._update_masks(swaps)),
            ("S", lambda: self._update_values(steps)),
        ):
            update()
            yield name, self.loss()

    def bytes_over_dense(self) -> float:
        """Return the bytes of S packed in 16 bits, A and B in 16 bits, over those of the weight."""
        n, k = self.weight.shape
        return (self.a.numel() + self.b.numel()) / (n * k) + 9 / 16

    def _update_a(self) -> None:
        """Solve the least squares of each block of A: it alone makes its rows of the product."""
        inner = self._row_blocks(self._right(self.s, self.b))
        inner_h = inner @ self.gram
        normal = _ridged(inner_h @ inner.mT)
        right = inner_h @ self._row_blocks(self.weight).mT
        solved, failed = torch.linalg.solve_ex(normal, right)
        self._keep_blocks(solved.mT, failed)

    def _keep_blocks(self, a: Tensor, failed: Tensor) -> None:
        """Take over the blocks of A that lower the loss of their rows."""
        before = self._block_losses(self.a, self.s)
        after = self._block_losses(a, self.s)
        better = (after < before) & (failed == 0)
        self.a = torch.where(better[:, None, None], a, self.a)

    def _update_b(self) -> None:
        """Solve the least squares of each block of B in turn, the others fixed."""
        outer = self._left(self.a, self.s)
        gradient = (self.weight - self.product()) @ self.gram
        for place in range(len(self.b)):
            columns = slice(place * self.block, (place + 1) * self.block)
            left, right = outer[:, columns], self.gram[columns, columns]
            pull = left.mT @ gradient[:, columns]
            step, failed = torch.linalg.solve_ex(_ridged(left.mT @ left), pull)
            step, failed_too = torch.linalg.solve_ex(_ridged(right), step.mT)
            step = step.mT
            gain = 2 * (pull * step).sum() - ((left.mT @ left) @ step @ right * step).sum()
            if failed == 0 and failed_too == 0 and gain > 0:
                self.b[place] += step
                gradient -= (left @ step) @ self.gram[columns]

    def _update_masks(self, swaps: int) -> None:
        """Change the mask of some groups of four in each block of rows, so that the loss falls.

        With all else fixed, the loss is a quadratic in the four entries of a group, and each of the six masks
        has its least value in closed form. Rows of different blocks don't meet in the loss: in each block,
        the best group of every chunk of columns changes at once; where they are worse together than before,
        the best one of the block alone.
        """
        spread = self._right(self._right(self.gram, self._transposed(self.b)).mT, self._transposed(self.b))
        groups = len(spread) // 4
        core = spread.reshape(groups, 4, groups, 4).diagonal(dim1=0, dim2=2).permute(2, 0, 1)
        scales = self.a.square().sum(1).flatten()
        losses = self._block_losses(self.a, self.s)
        for _ in range(swaps):
            best, gains = self._best_masks(core, scales)
            many, one = self._chosen(gains, CHUNKS), self._chosen(gains, 1)
            for chosen in (many, one):
                changed = torch.where(chosen[:, :, None], best, _groups(self.s)).flatten(1)
                after = self._block_losses(self.a, changed)
                better = after < losses
                self.s = torch.where(better.repeat_interleave(self.block)[:, None], changed, self.s)
                losses = torch.where(better, after, losses)

    def _best_masks(self, core: Tensor, scales: Tensor) -> tuple[Tensor, Tensor]:
        """Return each group's best entries under any mask ``[N, K/4, 4]``, and what the loss falls by."""
        entries = _groups(self.s)
        curvature = core[None] * scales[:, None, None, None]
        bent = (curvature @ entries[..., None]).squeeze(-1)
        pull = _groups(self._pull()) + bent
        now = (2 * pull - bent).mul_(entries).sum(-1)
        best, gains = torch.zeros_like(entries), torch.full_like(now, -torch.inf)
        for i, j in itertools.combinations(range(4), 2):
            p, q, r = curvature[..., i, i], curvature[..., j, j], curvature[..., i, j]
            determinant = (p * q - r * r).clamp(min=1e-30)
            first = (q * pull[..., i] - r * pull[..., j]) / determinant
            second = (p * pull[..., j] - r * pull[..., i]) / determinant
            gain = first * pull[..., i] + second * pull[..., j] - now
            better = gain > gains
            gains = torch.where(better, gain, gains)
            found = torch.zeros_like(entries)
            found[..., i], found[..., j] = first, second
            best = torch.where(better[..., None], found, best)
        return best, gains

    def _chosen(self, gains: Tensor, chunks: int) -> Tensor:
        """Return bool ``[N, K/4]``: the best group in each block of rows and chunk of columns."""
        groups = gains.shape[1]
        chunks = next(count for count in range(min(chunks, groups), 0, -1) if groups % count == 0)
        width = groups // chunks
        pieces = gains.reshape(-1, self.block, chunks, width).transpose(1, 2).flatten(2)
        chosen = torch.zeros_like(pieces, dtype=torch.bool)
        chosen.scatter_(2, pieces.argmax(2, keepdim=True), True)
        return chosen.reshape(-1, chunks, self.block, width).transpose(1, 2).reshape(-1, groups)

    def _update_values(self, steps: int) -> None:
        """Fit the nonzeros of S by conjugate gradients, which lower the loss with every step."""
        support = (self.s != 0).to(self.s.dtype)

        def normal(direction: Tensor) -> Tensor:
            spread = self._left(self.a, self._right(direction, self.b)) @ self.gram
            return self._left(self.a.mT, self._right(spread, self._transposed(self.b)))

        before = self.loss()
        fitted = _conjugate_gradients(self.s, support, self._pull(), normal, steps, rows=False)
        kept, self.s = self.s, fitted
        if not self.loss() <= before:
            self.s = kept

    def _pull(self) -> Tensor:
        """Return half the negative gradient of the loss by S, ``[N, K]``."""
        spread = (self.weight - self.product()) @ self.gram
        return self._left(self.a.mT, self._right(spread, self._transposed(self.b)))

    def _block_losses(self, a: Tensor, s: Tensor) -> Tensor:
        """Return the loss of each block of rows, ``[N/block]``."""
        difference = self.weight - self._left(a, self._right(s, self.b))
        return _rows_loss(difference, self.gram).reshape(-1, self.block).sum(1)

    def _row_blocks(self, matrix: Tensor) -> Tensor:
        return matrix.reshape(-1, self.block, matrix.shape[1])

    def _left(self, a: Tensor, matrix: Tensor) -> Tensor:
        """Multiply by a block-diagonal matrix from the left."""
        return (a @ self._row_blocks(matrix)).flatten(0, 1)

    def _right(self, matrix: Tensor, b: Tensor) -> Tensor:
        """Multiply by a block-diagonal matrix from the right."""
        blocks = matrix.reshape(len(matrix), -1, self.block).transpose(0, 1)
        return (blocks @ b).transpose(0, 1).flatten(1)

    @staticmethod
    def _transposed(blocks: Tensor) -> Tensor:
        return blocks.mT.contiguous()


def _groups(matrix: Tensor) -> Tensor:
    """Return a matrix ``[N, K]`` as its groups of four, ``[N, K/4, 4]``."""
    return matrix.reshape(len(matrix), -1, 4)


def _rows_loss(difference: Tensor, gram: Tensor) -> Tensor:
    return (difference @ gram * difference).sum(1)


def _ridged(matrix: Tensor) -> Tensor:
    """Return matrices ``[…, n, n]`` with a little of their mean diagonal added to it."""
    diagonal = matrix.diagonal(dim1=-2, dim2=-1)
    ridge = RIDGE * diagonal.mean(-1, keepdim=True).clamp(min=1e-30)
    return matrix + torch.diag_embed(ridge.expand_as(diagonal))


def _conjugate_gradients(
    start: Tensor,
    support: Tensor,
    pull: Tensor,
    normal: Callable[[Tensor], Tensor],
    steps: int,
    *,
    rows: bool = True,
) -> Tensor:
    """Return the minimiser, after some steps, of a convex quadratic over the entries of a support.

    Args:
        start: ``[N, K]``, zero outside the support.
        support: 1 where entries may change.
        pull: half the negative gradient at the start.
        normal: half the second derivative along a direction.
        steps: at most.
        rows: whether rows are problems of their own, with a step size each.
    """
    values, residual = start.clone(), pull * support
    direction = residual.clone()
    power = _inner(residual, residual, rows=rows)
    for _ in range(steps):
        bent = normal(direction) * support
        curvature = _inner(direction, bent, rows=rows)
        size = torch.where(curvature > 0, power / curvature, 0)
        values += size * direction
        residual -= size * bent
        previous, power = power, _inner(residual, residual, rows=rows)
        direction = residual + torch.where(previous > 0, power / previous, 0) * direction
    return values


def _inner(first: Tensor, second: Tensor, *, rows: bool) -> Tensor:
    product = first * second
    return product.sum(1, keepdim=True) if rows else product.sum()
