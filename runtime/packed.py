"""A 2:4 weight in its packed, portable form: the kept values and their places."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from sparseflow.errors import ArgumentError, WeightError
from sparseflow.runtime import checks, ops
from sparseflow.runtime.checks import NATIVE_DTYPES
from sparseflow.runtime.device_weight import DeviceWeight
from sparseflow.runtime.pattern import first_violation


def packed_shapes(out_features: int, in_features: int) -> tuple[tuple[int, int], tuple[int, int]]:
    """Shapes of ``values`` and ``positions`` for a weight ``[out_features, in_features]``."""
    groups = (in_features + 3) // 4
    return (out_features, 2 * groups), (out_features, (groups + 1) // 2)


def packed_zeros(
    out_features: int, in_features: int, dtype: torch.dtype, device: torch.device | str | None
) -> tuple[Tensor, Tensor]:
    """``values`` and ``positions`` of a weight of zeros."""
    shape, positions_shape = packed_shapes(out_features, in_features)
    values = torch.zeros(shape, dtype=dtype, device=device)
    return values, torch.full(positions_shape, 0x44, dtype=torch.uint8, device=device)


def unpacked(values: Tensor, positions: Tensor, in_features: int) -> Tensor:
    """The dense weight ``[N, in_features]`` of a `PackedWeight`'s tensors, in the form of their device."""
    if device := _on_device(values, positions, in_features):
        return device.dense()
    dense: Tensor = ops.unpack_2_4(values, positions, in_features)
    return dense


def _on_device(values: Tensor, positions: Tensor, in_features: int) -> DeviceWeight | None:
    on_cuda = values.is_cuda and positions.dim() == 1
    return DeviceWeight(values, positions, in_features) if on_cuda else None


class PackedWeight(nn.Module):
    """A weight ``[N, K]`` of which two entries in each group of four are stored.

    Kp is K rounded up to a multiple of 4. On CUDA the positions are kept 1-d, right behind the values, in the
    order of the tensor cores, both padded (``gpu.DeviceWeight``); moving the module between devices,
    `portable` and the state dict translate.

    Args:
        values: ``[N, Kp/2]``, the kept values in order of place; float32, bfloat16 or float16.
        positions: ``[N, ceil(Kp/8)]`` uint8, for each group a nibble ``p0 | p1 << 2``, p0 < p1, even groups
            low.
        in_features: K.
        name: how errors call the weight.
        trusted: skip the look at the values and places themselves (for what this package packed itself).

    Raises:
        ArgumentError: a shape, dtype or device doesn't fit.
        WeightError: a place is not p0 < p1, a value lies beyond K, or a value is NaN or Inf.
    """

    DTYPES: ClassVar[tuple[torch.dtype, ...]] = NATIVE_DTYPES
    """What the values may be."""

    values: Tensor
    positions: Tensor
    dense: Tensor | None
    turned: Tensor | None

    def __init__(
        self,
        values: Tensor,
        positions: Tensor,
        in_features: int,
        *,
        name: str = "weight",
        trusted: bool = False,
    ) -> None:
        super().__init__()
        _require_layout(values, positions, in_features, name, self.DTYPES)
        if not trusted:
            _require_content(values, positions, in_features, name)
        self.in_features = in_features
        self.register_buffer("values", None)
        self.register_buffer("positions", None)
        self.register_buffer("dense", None, persistent=False)
        self.register_buffer("turned", None, persistent=False)
        self._place(values.detach().contiguous(), positions.detach().contiguous())

    @classmethod
    def empty(
        cls,
        out_features: int,
        in_features: int,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str | None = None,
    ) -> PackedWeight:
        """A packed weight of zeros, to load a state dict into."""
        values, positions = packed_zeros(out_features, in_features, dtype, device)
        return cls(values, positions, in_features, trusted=True)

    @property
    def out_features(self) -> int:
        """N."""
        return self.values.shape[0]

    @property
    def shape(self) -> torch.Size:
        """Of the weight it stands for: ``[N, K]``."""
        return torch.Size((self.out_features, self.in_features))

    @property
    def dtype(self) -> torch.dtype:
        """Of the values."""
        return self.values.dtype

    @property
    def device(self) -> torch.device:
        """Where the values are."""
        return self.values.device

    @property
    def nbytes(self) -> int:
        """Bytes held: of the packed form with its padding, and of the dense one where it is kept."""
        device = self._on_device()
        packed = device.nbytes if device else self.values.nbytes + self.positions.nbytes
        others = (b.nbytes for name, b in self.named_buffers() if name not in ("values", "positions"))
        return packed + sum(others)

    @property
    def dense_nbytes(self) -> int:
        """Bytes of the dense weight it stands for."""
        return self.out_features * self.in_features * self.values.element_size()

    def unpack(self) -> Tensor:
        """The dense weight ``[N, K]``, with exact zeros where nothing is stored."""
        return unpacked(self.values, self.positions, self.in_features)

    def portable(self) -> tuple[Tensor, Tensor]:
        """Values ``[N, Kp/2]`` and positions ``[N, ceil(Kp/8)]``, the form that is saved, on this device."""
        device = self._on_device()
        return self.values.contiguous(), device.portable_positions() if device else self.positions

    def keep_dense(self) -> None:
        """Hold the unpacked weight as ``dense`` from now on: memory mode ``fast``."""
        if self.dense is None:
            self.dense = self.unpack()

    def keep_turned(self) -> None:
        """Hold the unpacked weight's transpose ``[K, N]``, contiguous, as ``turned`` from now on."""
        if self.turned is None:
            self.turned = self.unpack().t().contiguous()

    def fill(self, parts: Sequence[PackedWeight]) -> None:
        """Become the rows of other packed weights, one below the other, on their device."""
        pairs = [part.portable() for part in parts]
        self._place(_stacked([values for values, _ in pairs]), _stacked([places for _, places in pairs]))

    def settle(self) -> None:
        """On a GPU: give back the memory around this weight, which was free or temporary while it was packed.

        torch's allocator returns whole segments only, and the weight lies in a part of one.
        """
        if device := self._on_device():
            torch.cuda.empty_cache()
            device = device.settled()
            self.values, self.positions = device.values, device.positions
            torch.cuda.empty_cache()

    def _place(self, values: Tensor, positions: Tensor) -> None:
        """Take the portable form, or CUDA's, as this device wants it."""
        if values.is_cuda and positions.dim() == 2 and torch.ops.sparseflow.cuda_kernels_built():
            device = DeviceWeight.from_portable(values, positions, self.in_features)
            values, positions = device.values, device.positions
        self.values, self.positions = values, positions
        self.dense = None if self.dense is None else self.unpack()
        self.turned = None if self.turned is None else self.unpack().t().contiguous()

    def _on_device(self) -> DeviceWeight | None:
        return _on_device(self.values, self.positions, self.in_features)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> PackedWeight:
        values, positions = self.portable()
        values = fn(values)
        if values.dtype not in self.DTYPES:
            raise ArgumentError(
                "a packed weight",
                f"it can't be converted to {values.dtype}: only float32, bfloat16 and float16 are packed",
                "sparseflow.nn.densify(model) makes plain layers of packed ones",
            )
        self._place(values, fn(positions))
        return self

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        destination[f"{prefix}values"], destination[f"{prefix}positions"] = self.portable()

    def extra_repr(self) -> str:
        """What ``repr`` shows between the parentheses."""
        kind = checks.dtype_name(self.dtype)
        share = f"{self.nbytes / self.dense_nbytes:.3f} of dense" if self.dense_nbytes else "empty"
        return f"{self.out_features}×{self.in_features}, {kind}, {self.device}, {self.nbytes} bytes ({share})"

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        values, positions = state_dict.get(f"{prefix}values"), state_dict.get(f"{prefix}positions")
        if isinstance(values, Tensor) and isinstance(positions, Tensor):
            name = prefix.removesuffix(".") or "weight"
            _require_layout(values, positions, self.in_features, name, self.DTYPES)
            _require_content(values, positions, self.in_features, name)
        self.values, self.positions = self.portable()
        super()._load_from_state_dict(state_dict, prefix, *rest)
        self._place(self.values, self.positions)


def compress_2_4(w: Tensor, *, name: str = "weight") -> PackedWeight:
    """Pack a weight that is 2:4 already; nothing is pruned here.

    Args:
        w: weight ``[N, K]``, float32, bfloat16 or float16, at most two nonzeros in each group of four
            (−0.0 is a zero, and comes back as 0.0). On the meta device only the shapes are made.
        name: how errors call the weight.

    Returns:
        The packed weight, on the same device.

    Raises:
        ArgumentError: not a 2-d strided tensor of a supported dtype.
        WeightError: NaN or Inf, or not 2:4; names the first bad row and column, or row and group.
    """
    weight = checks.require_matrix(w, name)
    checks.require_dtype(weight, NATIVE_DTYPES, name)
    checks.require_finite(weight, name)
    if not weight.is_meta:
        _require_24(weight, name)
    values, positions = ops.pack_2_4(weight.contiguous())
    return PackedWeight(values, positions, weight.shape[1], name=name, trusted=True)


def _require_24(weight: Tensor, name: str) -> None:
    bad = first_violation(weight, name=name)
    if bad is None:
        return
    row, group = bad
    columns = weight[row, 4 * group : 4 * group + 4]
    raise WeightError(
        name,
        f"not 2:4: row {row}, group {group} (columns {4 * group}…{4 * group + columns.numel() - 1}) holds "
        f"{int((columns != 0).sum())} nonzeros, at most 2 are allowed",
        "prune it first: sparseflow.prune_24(w)",
    )


def _stacked(parts: Sequence[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(list(parts))


def _require_layout(
    values: Tensor, positions: Tensor, in_features: int, name: str, dtypes: Sequence[torch.dtype]
) -> None:
    values = checks.require_matrix(values, f"{name}.values")
    if positions.dim() == 1 and positions.is_cuda:
        return  # CUDA's own form, which the operators check
    positions = checks.require_matrix(positions, f"{name}.positions")
    checks.require_dtype(values, dtypes, f"{name}.values")
    checks.require_dtype(positions, (torch.uint8,), f"{name}.positions")
    expected = packed_shapes(values.shape[0], in_features)
    found = tuple(values.shape), tuple(positions.shape)
    if found != expected:
        raise ArgumentError(
            name,
            f"in_features={in_features} needs values {list(expected[0])} and positions {list(expected[1])}, "
            f"got {list(found[0])} and {list(found[1])}",
        )
    if values.device != positions.device:
        raise ArgumentError(name, f"values are on {values.device}, positions on {positions.device}")


def _require_content(values: Tensor, positions: Tensor, in_features: int, name: str) -> None:
    if values.is_meta or positions.dim() == 1:
        return
    checks.require_finite(values, f"{name}.values")
    _require_ordered(positions, name)
    if in_features % 4:
        _require_padding(values, positions, in_features, name)


def _require_ordered(positions: Tensor, name: str) -> None:
    for start, chunk in checks.row_chunks(positions):
        for half in (0, 1):
            nibble = chunk >> 4 * half & 15
            bad = nibble & 3 >= nibble >> 2
            if bad.any():
                row, byte = bad.nonzero()[0].tolist()
                first, second = int(nibble[row, byte]) & 3, int(nibble[row, byte]) >> 2
                raise WeightError(
                    f"{name}.positions",
                    f"row {start + row}, group {2 * byte + half} stores the places {first} and {second}; "
                    "the first must be less than the second",
                    "pack the weight with sparseflow.compress_2_4",
                )


def _require_padding(values: Tensor, positions: Tensor, in_features: int, name: str) -> None:
    group = in_features // 4
    nibble = positions[:, group // 2] >> 4 * (group % 2) & 15
    for place, value in ((nibble & 3, values[:, -2]), (nibble >> 2, values[:, -1])):
        bad = (place >= in_features % 4) & (value != 0)
        if bad.any():
            raise WeightError(
                f"{name}.values",
                f"row {int(bad.nonzero()[0])}, group {group} stores a nonzero beyond K={in_features}",
                "pack the weight with sparseflow.compress_2_4",
            )
