"""Weights in fp8 of others' checkpoints: which tensors are one weight, and what they stand for.

| declared as | written by | a weight ``L.weight`` is stored as |
|---|---|---|
| ``compressed-tensors``, ``float-quantized`` | llm-compressor | itself, ``L.weight_scale`` |
| ``fp8`` | transformers' FineGrainedFP8, DeepSeek | itself, ``L.weight_scale_inv`` or ``L.weight_scale`` |
| ``torchao`` | torchao's Float8Tensor, by the files' metadata | ``L._weight_qdata``, ``L._weight_scale`` |

With ``sparse-24-bitmask`` beside ``float-quantized`` the kept values are ``.compressed``, with ``.bitmask``.
A scale is one number, one a row, or a grid of them over blocks of the matrix, and always multiplies. Static
scales of inputs are left out: ``linear_fp8`` scales each row of x when it runs.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from sparseflow.errors import CheckpointError
from sparseflow.integrations.compressed_tensors.bitmask import positions_of_bitmask
from sparseflow.runtime import checks
from sparseflow.runtime.checks import row_chunks
from sparseflow.runtime.portable import unpack_2_4
from sparseflow.support.documents import Document

Fp8Name = Literal["float-quantized", "fp8", "torchao"]

_GET_OTHER = "give a checkpoint in 16 or 32 bits, or one in fp8 with a scale for each matrix, row or block"
_WHOLE = "get a complete copy of the checkpoint"
_SCALES = ("_scale_inv", "_scale")
_OF_INPUTS = re.compile(
    r"(^|\.)(input_scale|activation_scale|output_scale|[kvq]_scale|[kvq]_proj\.output_scale)$"
)
_STRATEGIES = ("tensor", "channel", "block", "group")
_KEPT, _MASK, _WEIGHT = ".compressed", ".bitmask", ".weight"


@dataclass(frozen=True)
class ScaledWeight:
    """The names of a weight's tensors.

    Attributes:
        values: of the numbers in fp8.
        scale: of what they are multiplied by.
        mask: of the bitmask of the places of the values; None where they are dense.
    """

    values: str
    scale: str
    mask: str | None = None

    @property
    def parts(self) -> tuple[str, ...]:
        """The names of all its tensors."""
        return (self.values, self.scale) if self.mask is None else (self.values, self.scale, self.mask)


@dataclass(frozen=True)
class Fp8Weights:
    """The fp8 weights of a checkpoint.

    Attributes:
        name: how config.json declares them.
        weights: by the name of the weight in the model.
        left_out: names of tensors that stand for no tensor of the model.
        block: rows and columns of the blocks that a grid of scales is for; None if the grid's sizes say it.
        dtype: of the weights once they are dequantised.
    """

    name: Fp8Name
    weights: Mapping[str, ScaledWeight]
    left_out: frozenset[str]
    block: tuple[int, int] | None
    dtype: torch.dtype


def declared_fp8(declared: Document) -> Fp8Name | None:
    """Return how a ``quantization_config`` declares fp8 weights; None if it declares none."""
    method = declared.get("quant_method")
    if method == "compressed-tensors":
        return "float-quantized" if declared.get("config_groups") else None
    return method if method in ("fp8", "torchao") else None


def fp8_weights(
    config: Document,
    declared: Document,
    dtypes: Mapping[str, str],
    metadata: Mapping[str, str],
    subject: str,
) -> Fp8Weights:
    """Find the fp8 weights of a checkpoint and their scales.

    Args:
        config: config.json.
        declared: its entry about quantisation, for which `declared_fp8` has a name.
        dtypes: of all tensors, as safetensors names them.
        metadata: of all files together.
        subject: how errors call the checkpoint.

    Raises:
        CheckpointError: weights are quantised in another way too, or one has no scale.
    """
    name = declared_fp8(declared)
    assert name is not None, "the caller asked"
    block = declared_block(declared, subject)
    found = _of_torchao(metadata, dtypes, subject) if name == "torchao" else _by_suffix(dtypes, subject)
    parts = {part for weight in found.values() for part in weight.parts}
    shapes = {weight.mask.removesuffix(_MASK) + ".shape" for weight in found.values() if weight.mask}
    spare = ({other for other in dtypes if _OF_INPUTS.search(other)} | shapes) - parts
    return Fp8Weights(name, found, frozenset(spare), block, _dtype_of(config))


def declared_block(declared: Document, subject: str) -> tuple[int, int] | None:
    """Return the rows and columns of the blocks that have a scale each; None: the grid of scales says it.

    Args:
        declared: the entry about quantisation, for which `declared_fp8` has a name.
        subject: how errors call the checkpoint.

    Raises:
        CheckpointError: weights are quantised in another way than to 8-bit floats.
    """
    name = declared_fp8(declared)
    if name == "float-quantized":
        _require_known_sparsity(declared, subject)
        return _require_float8(declared, subject)
    if name == "torchao":
        _require_torchao_float8(declared, subject)
        return None
    return _block_of(declared.get("weight_block_size"), subject)


def scale_factors(scale: Tensor, subject: str) -> Tensor:
    """Return scales in float32; bytes e stand for 2**e with a bias of 127.

    Raises:
        CheckpointError: one is NaN or Inf.
    """
    factors = (scale.float() - 127).exp2() if scale.dtype == torch.uint8 else scale.float()
    if not bool(factors.isfinite().all()):
        raise CheckpointError(subject, "a scale is NaN or Inf", _WHOLE)
    return factors


def dequantized(
    values: Tensor, scale: Tensor, block: tuple[int, int] | None, dtype: torch.dtype, subject: str
) -> Tensor:
    """Return ``values * scale``, rounded once.

    Args:
        values: ``[…, N, K]`` in fp8.
        scale: one number, ``[N]``, or a grid ``[…, n, k]`` over blocks; floating, or bytes e of 2**e
            with a bias of 127.
        block: rows and columns of a block; None: N/n and K/k.
        dtype: of the result.
        subject: how errors call the weight.

    Raises:
        CheckpointError: the scales don't fit the values, or one is NaN or Inf.
    """
    factors = scale_factors(scale, subject)
    if factors.numel() == 1:
        factors = factors.reshape((1,) * values.dim())
    elif factors.dim() == 1 == values.dim() - 1 and len(factors) == len(values):
        factors = factors[:, None]
    row, column = _places(values, factors, block, subject)
    if values.dim() == 2:
        pieces = row_chunks(values)
        made = [
            (chunk.float() * factors[row[at : at + len(chunk)]][:, column]).to(dtype) for at, chunk in pieces
        ]
        return torch.cat(made) if made else values.to(dtype)
    return (values.float() * factors[..., row, :][..., column]).to(dtype)


def from_mask(values: Tensor, mask: Tensor, name: str) -> Tensor:
    """Return a dense matrix in fp8 of kept values ``[N, K/2]`` and their mask ``[N, ceil(K/8)]``, 2:4.

    Raises:
        ArgumentError, WeightError: the shapes don't fit each other, or a group doesn't keep exactly two.
    """
    columns = 2 * checks.require_matrix(values, f"{name}.compressed").shape[1]
    positions = positions_of_bitmask(mask, columns, name=name)
    if positions.shape != (len(values), (columns + 7) // 8):
        sizes = f"its mask {list(mask.shape)} doesn't fit {list(values.shape)} kept values"
        raise CheckpointError(f"layer {name}", sizes, _WHOLE)
    # torch can't scatter numbers in fp8, so their bytes are.
    return unpack_2_4(values.view(torch.uint8), positions, columns).view(values.dtype)


def _places(
    values: Tensor, grid: Tensor, block: tuple[int, int] | None, subject: str
) -> tuple[Tensor, Tensor]:
    """Return the row and the column of the grid that belong to each row and column of the values."""
    fits = grid.dim() == values.dim() >= 2 and grid.shape[:-2] in (values.shape[:-2], (1,) * (grid.dim() - 2))
    found = []
    for dim in (-2, -1) if fits else ():
        size, count = values.shape[dim], grid.shape[dim]
        declared = block[dim] if block is not None and count > 1 else 0
        width = declared or -(-size // max(1, count))
        if -(-size // width) != count and size:
            break
        if not declared and size % max(1, count):
            break
        found.append(torch.arange(size) // width)
    if len(found) < 2:
        sizes = f"scales {list(grid.shape)} don't fit values {list(values.shape)}"
        raise CheckpointError(subject, sizes + (f" in blocks of {list(block)}" if block else ""), _WHOLE)
    return found[0], found[1]


def _require_known_sparsity(declared: Document, subject: str) -> None:
    sparsity = declared.get("sparsity_config") or {}
    form = sparsity.get("format") if isinstance(sparsity, Mapping) else sparsity
    if form not in (None, "dense", "sparse-24-bitmask"):
        raise CheckpointError(subject, f"its sparse format {form!r:.40} isn't read", _GET_OTHER)


def _require_float8(declared: Document, subject: str) -> tuple[int, int] | None:
    """Check that every group of weights is in 8-bit floats, symmetric; return the size of their blocks."""
    groups = declared.get("config_groups")
    blocks: set[tuple[int, int] | None] = set()
    for scheme in (groups if isinstance(groups, Mapping) else {}).values():
        weights = scheme.get("weights") if isinstance(scheme, Mapping) else None
        if not isinstance(weights, Mapping):
            raise CheckpointError(subject, "its config_groups name no form of weights", _WHOLE)
        kind = f"{weights.get('num_bits')}-bit {weights.get('type')}, {weights.get('strategy')}"
        eight = weights.get("num_bits") == 8 and weights.get("type") == "float"
        if not eight or not weights.get("symmetric", True) or weights.get("strategy") not in _STRATEGIES:
            raise CheckpointError(subject, f"its weights are quantised as {kind:.60}", _GET_OTHER)
        group = [1, weights.get("group_size")] if weights.get("strategy") == "group" else None
        blocks.add(_block_of(group or weights.get("block_structure"), subject))
    if len(blocks) > 1:
        raise CheckpointError(subject, "its groups have blocks of several sizes", _GET_OTHER)
    return blocks.pop() if blocks else None


def _require_torchao_float8(declared: Document, subject: str) -> None:
    """Check that torchao's configuration, where config.json has it, is one of 8-bit floats."""
    kinds = declared.get("quant_type")
    for kind in (kinds if isinstance(kinds, Mapping) else {}).values():
        name = kind.get("_type") if isinstance(kind, Mapping) else kind
        if not str(name).startswith("Float8"):
            raise CheckpointError(subject, f"its weights are torchao's {name!r:.40}", _GET_OTHER)


def _block_of(size: object, subject: str) -> tuple[int, int] | None:
    """Return the rows and columns of a block, given as two numbers or as "128x128"."""
    if size is None:
        return None
    parts = size.split("x") if isinstance(size, str) else size
    try:
        rows, columns = (int(part) for part in parts)  # type: ignore[attr-defined]  # what isn't iterable raises
    except (TypeError, ValueError):
        rows = columns = 0
    if rows < 1 or columns < 1:
        raise CheckpointError(subject, f"its blocks have the size {size!r:.40}", _WHOLE)
    return rows, columns


def _by_suffix(dtypes: Mapping[str, str], subject: str) -> dict[str, ScaledWeight]:
    """Return the tensors in fp8, each with the scale that is named after it."""
    found = {}
    for name in (name for name, dtype in dtypes.items() if dtype.startswith("F8_E") and dtype != "F8_E8M0"):
        kept = name.endswith(_KEPT)
        weight = name.removesuffix(_KEPT) + _WEIGHT if kept else name
        mask = name.removesuffix(_KEPT) + _MASK if kept else None
        scale = next(
            (weight + suffix for suffix in _SCALES if weight + suffix in dtypes), weight + _SCALES[1]
        )
        for needed in (scale, mask):
            if needed is not None and needed not in dtypes:
                raise CheckpointError(
                    subject, f"it has no tensor {needed} for {name}, which is in fp8", _WHOLE
                )
        found[weight] = ScaledWeight(name, scale, mask)
    return found


def _of_torchao(
    metadata: Mapping[str, str], dtypes: Mapping[str, str], subject: str
) -> dict[str, ScaledWeight]:
    """Return the weights that the files' metadata calls Float8Tensor."""
    found = {}
    for name, text in metadata.items():
        try:
            kind = json.loads(text).get("_type")
        except (ValueError, AttributeError, RecursionError):
            continue  # of the other entries some are lists, or words
        if kind in ("Tensor", None):
            continue
        if kind != "Float8Tensor":
            raise CheckpointError(subject, f"{name} is torchao's {kind!r:.40}", _GET_OTHER)
        prefix, _, last = name.rpartition(".")
        parts = [f"{prefix}._{last}_{part}" for part in ("qdata", "scale")]
        for part in parts:
            if part not in dtypes:
                raise CheckpointError(subject, f"it has no tensor {part}", _WHOLE)
        found[name] = ScaledWeight(*parts)
    if not found:
        raise CheckpointError(subject, "its files say nothing of torchao's fp8 weights", _GET_OTHER)
    return found


def _dtype_of(config: Document) -> torch.dtype:
    """Return the dtype that config.json gives the model; bfloat16 if it doesn't say, or says fp8."""
    name = str(config.get("dtype") or config.get("torch_dtype") or "").removeprefix("torch.")
    known: dict[str, torch.dtype] = {"float32": torch.float32, "float16": torch.float16}
    return known.get(name, torch.bfloat16)


def model_names(names: Iterable[str], form: Fp8Weights) -> list[str]:
    """Return the names of a checkpoint's tensors as in the model, each once, in order."""
    of_part = {part: name for name, weight in form.weights.items() for part in weight.parts}
    return list(dict.fromkeys(of_part.get(name, name) for name in names if name not in form.left_out))
