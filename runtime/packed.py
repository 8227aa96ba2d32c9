"""`PackedWeight`, a weight stored in a format, and packing."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from sparseflow.errors import ArgumentError, WeightError
from sparseflow.runtime import checks
from sparseflow.runtime.checks import NATIVE_DTYPES
from sparseflow.runtime.formats import Format, find
from sparseflow.runtime.formats.tensors import ELEMENT_TYPES, TORCH_DTYPES, empty_parts
from sparseflow.runtime.pattern import Pattern


class PackedWeight(nn.Module):
    """A weight ``[N, K]`` stored in a format; its tensors are buffers named after the format's parts.

    The tensors have the layout of their device. Moving the module to another device, `portable` and the state
    dict convert them. Casting the module changes the parts that are stored in the weight's dtype.

    Args:
        tensors: the format's parts, in its order. For ``"2:4"``: the kept values ``[N, Kp/2]`` in column
            order, and positions ``[N, ceil(Kp/8)]`` uint8 with a nibble ``p0 | p1 << 2``, p0 < p1, for each
            group of four, even groups in the low nibble. Kp is K rounded up to a multiple of 4.
        in_features: K.
        format: the name of a registered format.
        dtype: the dtype of the represented weight: float32, bfloat16 or float16. By default that of the first
            tensor.
        name: the weight's name in errors.
        trusted: skip the checks of the tensors' contents, for tensors that this package packed itself.

    Raises:
        ArgumentError: a shape, dtype or device doesn't fit, or the format is unknown.
        WeightError: the tensors hold NaN, Inf, positions that aren't p0 < p1, or a nonzero value beyond K.
    """

    # Parts of the 2:4 formats; `tensors` returns the parts of any format.
    values: Tensor
    positions: Tensor
    dense: Tensor | None
    turned: Tensor | None

    def __init__(
        self,
        tensors: Sequence[Tensor],
        in_features: int,
        format: str = "2:4",
        dtype: torch.dtype | None = None,
        *,
        name: str = "weight",
        trusted: bool = False,
    ) -> None:
        super().__init__()
        self.format: Format = find(format)
        self.in_features = in_features
        self.dtype: torch.dtype = _weight_dtype(self.format, tensors, dtype, name)
        self._require(tensors, name, self.dtype)
        if not trusted:
            self.format.check(tuple(tensors), in_features, name)
        for part in self.format.part_names:
            self.register_buffer(part, None)
        self.register_buffer("dense", None, persistent=False)
        self.register_buffer("turned", None, persistent=False)
        self._place(tuple(tensor.detach().contiguous() for tensor in tensors))
        self.format.load()  # programs look its operator up by name

    @classmethod
    def empty(
        cls,
        out_features: int,
        in_features: int,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str | None = None,
        format: str = "2:4",
    ) -> PackedWeight:
        """Return a weight of zeros, into which a state dict is loaded or `fill` copies."""
        found, at = find(format), torch.empty(0, device=device).device
        _weight_dtype(found, (), dtype, "weight")
        if at.type == "meta":
            parts = found.parts(out_features, in_features, ELEMENT_TYPES[dtype])
            tensors = empty_parts(parts, at)
        else:
            tensors = found.pack(torch.zeros(out_features, in_features, dtype=dtype, device=at))
        return cls(tensors, in_features, format, dtype, trusted=True)

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """The tensors in the format's order, in the layout of their device."""
        return tuple([getattr(self, name) for name in self.format.part_names])

    @property
    def out_features(self) -> int:
        """N."""
        return self.tensors[0].shape[0]

    @property
    def shape(self) -> torch.Size:
        """The shape of the represented weight, ``[N, K]``."""
        return torch.Size((self.out_features, self.in_features))

    @property
    def device(self) -> torch.device:
        """The device of the tensors."""
        return self.tensors[0].device

    @property
    def multiplied(self) -> torch.dtype:
        """The dtype that is multiplied, which policies are looked up by."""
        return TORCH_DTYPES[self.format.multiplied(ELEMENT_TYPES[self.dtype])]

    @property
    def nbytes(self) -> int:
        """The bytes held: of the packed form with its padding, and of kept dense forms."""
        kept = (tensor.nbytes for tensor in (self.dense, self.turned) if tensor is not None)
        return self.format.held_bytes(self.tensors, self.in_features) + sum(kept)

    @property
    def dense_nbytes(self) -> int:
        """The bytes of the represented weight if it were stored densely."""
        return self.out_features * self.in_features * self.dtype.itemsize

    def unpack(self) -> Tensor:
        """Return the represented weight ``[N, K]`` in `dtype`, with exact zeros where nothing is stored."""
        return self.format.unpack(self.tensors, self.in_features).to(self.dtype)

    def portable(self) -> tuple[Tensor, ...]:
        """Return the tensors in the portable form, which is the saved one, on this device."""
        return self.format.portable(self.tensors, self.in_features)

    def keep_dense(self) -> None:
        """Store the dense form as `dense`, for the operator's argument of that name."""
        if self.dense is None:
            self.dense = self._dense()

    def keep_turned(self) -> None:
        """Store the transpose of the dense form, contiguous ``[K, N]``, as `turned`."""
        if self.turned is None:
            self.turned = self._dense().t().contiguous()

    def fill(self, parts: Sequence[tuple[Tensor, ...]]) -> None:
        """Replace the tensors by the concatenated rows of other weights, on their device.

        Args:
            parts: the tensors of each weight, in this format's portable form.
        """
        self._place(self.format.join(parts))

    def shard(self, dim: int, rank: int, world: int) -> PackedWeight:
        """Return one of `world` equal pieces along dimension 0 (N) or 1 (K).

        Args:
            dim: 0 or 1.
            rank: the index of the piece.
            world: the number of pieces.

        Raises:
            ArgumentError: N or K can't be divided into that many pieces.
        """
        tensors = self.format.shard(self.portable(), self.in_features, dim, rank, world)
        in_features = self.in_features // world if dim else self.in_features
        return PackedWeight(tensors, in_features, self.format.name, self.dtype, trusted=True)

    def settle(self) -> None:
        """Move a weight on a GPU to compact memory, and free what packing used temporarily."""
        settled = self.format.settled(self.tensors, self.in_features)
        if settled[0] is not self.tensors[0]:
            self._set(settled)
            del settled
            torch.cuda.empty_cache()

    def _dense(self) -> Tensor:
        return self.format.dense(self.tensors, self.in_features)

    def _set(self, tensors: tuple[Tensor, ...]) -> None:
        for name, tensor in zip(self.format.part_names, tensors, strict=True):
            setattr(self, name, tensor)

    def _place(self, tensors: tuple[Tensor, ...]) -> None:
        """Store tensors, in the portable form or a device's, in the layout of their device."""
        self._set(self.format.to_device(tensors, self.in_features))
        self.dense = None if self.dense is None else self._dense()
        self.turned = None if self.turned is None else self._dense().t().contiguous()

    def _require(self, tensors: Sequence[Tensor], name: str, dtype: torch.dtype) -> None:
        for tensor in tensors:
            if not isinstance(tensor, Tensor):
                raise ArgumentError(name, f"expected torch.Tensors, got {type(tensor).__name__}")
        self.format.require(tuple(tensors), self.in_features, ELEMENT_TYPES[dtype], name)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> PackedWeight:
        tensors = self.portable()
        dtype = fn(torch.empty(0, dtype=self.dtype, device=self.device)).dtype
        if dtype not in NATIVE_DTYPES:
            raise ArgumentError(
                "a packed weight",
                f"it can't be converted to {dtype}: only float32, bfloat16 and float16 are packed",
                "sparseflow.nn.densify(model) makes plain layers of packed ones",
            )
        parts = self.format.parts(self.out_features, self.in_features, ELEMENT_TYPES[dtype])
        moved = [_moved(fn, t, TORCH_DTYPES[part.dtype]) for t, part in zip(tensors, parts, strict=True)]
        self.dtype = dtype
        self._place(tuple(moved))
        return self

    def _save_to_state_dict(self, destination: dict[str, object], prefix: str, keep_vars: bool) -> None:
        for part, tensor in zip(self.format.part_names, self.portable(), strict=True):
            destination[f"{prefix}{part}"] = tensor

    def extra_repr(self) -> str:
        """Return what ``repr`` shows between the parentheses."""
        kind = checks.dtype_name(self.dtype)
        stored = f"{kind} as {self.format.name}" if self.format.lossy else kind
        share = f"{self.nbytes / self.dense_nbytes:.3f} of dense" if self.dense_nbytes else "empty"
        return (
            f"{self.out_features}×{self.in_features}, {stored}, {self.device}, {self.nbytes} bytes ({share})"
        )

    def _load_from_state_dict(self, state_dict: dict[str, object], prefix: str, *rest: object) -> None:
        found = [state_dict.get(f"{prefix}{part}") for part in self.format.part_names]
        tensors = tuple(tensor for tensor in found if isinstance(tensor, Tensor))
        if len(tensors) == len(found):
            name = prefix.removesuffix(".") or "weight"
            # Of a format that isn't lossy the checkpoint's dtype may differ: torch casts while loading.
            dtype = _weight_dtype(self.format, tensors, self.dtype if self.format.lossy else None, name)
            self._require(tensors, name, dtype)
            self.format.check(tensors, self.in_features, name)
        self._set(self.portable())
        super()._load_from_state_dict(state_dict, prefix, *rest)
        self._place(self.tensors)


def _weight_dtype(
    stored: Format, tensors: Sequence[Tensor], dtype: torch.dtype | None, name: str
) -> torch.dtype:
    """Return the dtype of the represented weight; refuse dtypes that can't be packed."""
    if dtype is None and stored.lossy:
        raise ArgumentError(
            name,
            f"{stored.name} doesn't say of which dtype the weight was",
            "pass dtype, e.g. torch.bfloat16",
        )
    if dtype is None and tensors and isinstance(tensors[0], Tensor):
        checks.require_dtype(tensors[0], NATIVE_DTYPES, f"{name}.{stored.part_names[0]}")
        return tensors[0].dtype
    if dtype not in NATIVE_DTYPES:
        raise ArgumentError(name, f"expected a dtype of float32, bfloat16, float16, got {dtype}")
    return dtype


def _moved(fn: Callable[[Tensor], Tensor], tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """Return a part after the module moved, in the part's own dtype."""
    moved = fn(tensor)
    return moved if moved.dtype == dtype else tensor.to(moved.device)


def require_24(packed: PackedWeight, subject: str) -> None:
    """Refuse a weight in another format than ``"2:4"``.

    Raises:
        ArgumentError: names the weight's format.
    """
    if packed.format is not find("2:4"):
        raise ArgumentError(
            subject, f"it needs a weight in 2:4, not in {packed.format.name}", "sparseflow.compress_2_4(w)"
        )


def compress_2_4(w: Tensor, *, name: str = "weight") -> PackedWeight:
    """Pack a weight that is already 2:4; nothing is pruned.

    Args:
        w: weight ``[N, K]`` in float32, bfloat16 or float16, with at most two nonzeros in each group of four.
            −0.0 counts as zero and unpacks as 0.0. A weight on the meta device gives meta tensors.
        name: the weight's name in errors.

    Returns:
        The packed weight, on the same device.

    Raises:
        ArgumentError: not a 2-d strided tensor of a supported dtype.
        WeightError: NaN or Inf, or not 2:4; names the first bad row and column, or row and group.
    """
    return pack(w, name=name)


def pack(w: Tensor, format: str = "2:4", *, name: str = "weight") -> PackedWeight:
    """Pack a weight in any format, for most of which it must already be 2:4; see `compress_2_4`."""
    weight = checks.require_matrix(w, name)
    tensors = packed_tensors(weight, find(format), name)
    return PackedWeight(tensors, weight.shape[1], format, weight.dtype, name=name, trusted=True)


def packed_tensors(w: Tensor, stored: Format, name: str) -> tuple[Tensor, ...]:
    """Return the tensors of a weight ``[N, K]`` of the format's pattern, in its portable form.

    Raises:
        ArgumentError: as in `compress_2_4`.
        WeightError: as in `compress_2_4`.
    """
    weight = checks.require_matrix(w, name)
    checks.require_dtype(weight, NATIVE_DTYPES, name)
    checks.require_finite(weight, name)
    if weight.is_meta:
        n, k = weight.shape
        return empty_parts(stored.parts(n, k, ELEMENT_TYPES[weight.dtype]), weight.device)
    if stored.pattern != "dense":
        _require_pattern(weight, Pattern.of(stored.pattern), name)
    return stored.pack(weight.contiguous())


def _require_pattern(weight: Tensor, pattern: Pattern, name: str) -> None:
    bad = pattern.first_violation(weight, name=name)
    if bad is None:
        return
    row, group = bad
    first = pattern.block * group
    columns = weight[row, first : first + pattern.block]
    raise WeightError(
        name,
        f"not {pattern}: row {row}, group {group} (columns {first}…{first + columns.numel() - 1}) holds "
        f"{int((columns != 0).sum())} nonzeros, at most {pattern.keep} are allowed",
        f"prune it first: sparseflow.Pattern.of('{pattern}').prune(w)",
    )
