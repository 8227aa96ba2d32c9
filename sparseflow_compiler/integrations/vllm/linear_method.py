"""The linear method: a layer of vLLM over a packed weight, or over a dense one for a reason."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from vllm.config import get_current_vllm_config
from vllm.model_executor.layers.linear import (
    ColumnParallelLinear,
    LinearMethodBase,
    UnquantizedLinearMethod,
    register_weight_loader_v2_supported_method,
)

from sparseflow.errors import CheckpointError, WeightError
from sparseflow.integrations.vllm.checkpoint_forms import DenseForm, Form, MixedForm, packed_form
from sparseflow.integrations.vllm.fp8_form import Fp8Form
from sparseflow.integrations.vllm.packed_layers import FP8, PackedLayers
from sparseflow.integrations.vllm.part_loaders import Loader, Parts
from sparseflow.integrations.vllm.served_layers import ServedLayers
from sparseflow.nn import replace
from sparseflow.nn.linear import VALUES
from sparseflow.runtime import PackedWeight, Policy, packed
from sparseflow.runtime.checks import NATIVE_DTYPES, dtype_name
from sparseflow.runtime.formats import Format, find
from sparseflow.runtime.formats.tensors import ELEMENT_TYPES
from sparseflow.runtime.pattern import PATTERNS, Pattern, pattern_of
from sparseflow.support.arguments import Prune

_PROCESSED = "_already_called_process_weights_after_loading"
"""The mark of vLLM's own methods: what loads a layer again removes it."""

_PACKED = "weight_packed"
"""The parameter for a packed weight's first part; others are ``weight_<part>``. LoRA looks for this name."""

_KEPT = "weight_dense"
"""The parameter for the dense weight that is kept beside the packed one."""


@register_weight_loader_v2_supported_method
class SparseFlowLinearMethod(LinearMethodBase):  # type: ignore[misc]  # vLLM is not typed here
    """Load one layer's weight in the form of the checkpoint, pack it, and multiply by it.

    The packed weight's tensors are parameters of the layer, so that vLLM finds them where it moves weights or
    loads them again.

    Args:
        name: of the layer in vLLM.
        parts: its names in the checkpoint.
        packed: the layers that are packed there.
        layers: all layers of the engine, which are decided about together, and the options.
    """

    def __init__(
        self,
        name: str,
        parts: Parts,
        packed: PackedLayers,
        layers: ServedLayers,
    ) -> None:
        self.name = name
        self._parts, self._source = parts, packed
        self._packed = tuple(packed.holds(part) for part in parts.names)
        self._options, self._layers = layers.options, layers
        self._sizes: list[int] = []
        self._form: Form | None = None
        self._dense: LinearMethodBase | None = None  # what runs the layer if it is dense
        self._k, self._dtype = 0, torch.float32
        self._use(find(layers.options.format))
        self._codes: list[int] | None = None
        self._epilogue = "none"
        self._keeps_dense = False

    @property
    def uses_meta_device(self) -> bool:
        """Whether the layer has no memory before it is loaded, which vLLM wants to know."""
        return isinstance(self._form, DenseForm)

    def create_weights(
        self,
        layer: nn.Module,
        input_size_per_partition: int,
        output_partition_sizes: list[int],
        input_size: int,
        output_size: int,
        params_dtype: torch.dtype,
        **extra_weight_attrs: Loader,
    ) -> None:
        """Create what the layer loads; the arguments are those of every linear method."""
        n, self._k, self._dtype = sum(output_partition_sizes), input_size_per_partition, params_dtype
        self._sizes, self._parts.count = output_partition_sizes, len(output_partition_sizes)
        reason = None if any(self._packed) else self._why_not(n, self._k, params_dtype)
        if reason is not None:
            self._dense = UnquantizedLinearMethod()
            self._layers.stays_dense(self.name, reason)
            self._dense.create_weights(
                layer,
                input_size_per_partition,
                output_partition_sizes,
                input_size,
                output_size,
                params_dtype,
                **extra_weight_attrs,
            )
            return
        self._form = self._form_of(n, self._k, input_size, params_dtype)
        self._layers.expect(self.name, layer)
        self._form.create(layer, extra_weight_attrs["weight_loader"])

    def process_weights_after_loading(self, layer: nn.Module) -> None:
        """Pack the weight once it is loaded; vLLM may call this twice, and again after it was reloaded.

        Raises:
            CheckpointError, WeightError: the checkpoint's tensors are incomplete or malformed, or what was
                loaded again isn't 2:4 though the layer runs sparse.
        """
        if self._form is None:
            assert self._dense is not None, "a layer without a form is dense"
            self._dense.process_weights_after_loading(layer)
            return
        if getattr(layer, _PROCESSED, False):
            return
        setattr(layer, _PROCESSED, True)
        weight = self._form.take(layer, self.name)
        if self._dense is not None:
            self._hold_dense(layer, weight.unpack() if isinstance(weight, PackedWeight) else weight)
        elif self._codes is not None:
            self._hold(layer, self._repacked(weight))
        else:
            self._arrive(layer, weight)

    def apply(self, layer: nn.Module, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """Return ``x · Wᵀ + bias``, ``[…, N]`` for x ``[…, K]``; the operator dispatches by x's rows.

        A layer that gates returns ``act(g) * u``, ``[…, N/2]``, for the halves of that.
        """
        if self._dense is not None:
            dense: Tensor = self._dense.apply(layer, x, bias)
            return dense
        tensors = [getattr(layer, name) for name in self._names]
        kept = getattr(layer, _KEPT) if self._keeps_dense else None
        y: Tensor = self._op(x, *tensors, bias, None, self._k, self._epilogue, self._codes, kept)
        return y

    def run_sparse(self, layer: nn.Module, weight: PackedWeight, policy: Policy) -> None:
        """Run a layer by a policy from now on; the weight is the one that it holds."""
        self._codes = policy.to_ints()
        # q/k/v, gate and up read what a norm makes; layers split along K read attention and activations.
        normed = isinstance(layer, ColumnParallelLinear)
        self._op = weight.format.traced_op(weight.device.type, self._codes, normed=normed)
        if policy.keeps_dense:
            self._keeps_dense = True
            weight.keep_dense()
            _register(layer, _KEPT, weight.dense)

    def run_dense(self, layer: nn.Module, weight: Tensor) -> None:
        """Run a layer by vLLM's own product with a dense weight from now on."""
        self._dense = UnquantizedLinearMethod()
        for name in self._names:
            if hasattr(layer, name):
                delattr(layer, name)
        self._hold_dense(layer, weight)

    def run_gated(self, epilogue: str) -> None:
        """Return the gated product from now on."""
        self._epilogue = epilogue

    def dequantize_weight(self, layer: nn.Module) -> Tensor:
        """Return the dense weight ``[N, K]``, of a packed layer unpacked, for what reads it in vLLM."""
        if self._dense is not None:
            place = next(layer.parameters()).device
            return self.apply(layer, torch.eye(self._k, dtype=self._dtype, device=place)).t()
        tensors = [getattr(layer, name).data for name in self._names]
        return PackedWeight(tensors, self._k, self._format.name, self._dtype, trusted=True).unpack()

    def _form_of(self, n: int, k: int, whole_k: int, dtype: torch.dtype) -> Form:
        size = (self._parts, n, k, whole_k, dtype)
        if not any(self._packed):
            return DenseForm(*size)
        if self._source.form == FP8:
            self._require_whole()
            source, prunes = self._source, self._options.prune is not None
            return Fp8Form(size, prunes=prunes, block=source.block, masked=source.masked)
        kinds = [
            self._source.kind(part, whole_k) if packed else None
            for part, packed in zip(self._parts.names, self._packed, strict=True)
        ]
        patterns = [kind.pattern if kind is not None else None for kind in kinds]
        forms = [packed_form(self._source.form, size, pattern) for pattern in patterns]
        return forms[0] if forms[0] is not None and len(set(patterns)) == 1 else MixedForm(forms)

    def _require_whole(self) -> None:
        if not all(self._packed):
            raise CheckpointError(
                f"layer {self.name}",
                f"of its parts {', '.join(self._parts.names)} some are fp8 in the checkpoint, some not",
                "quantise all of them, or none",
            )

    def _why_not(self, n: int, k: int, dtype: torch.dtype) -> str | None:
        if min(n, k) < replace.MIN_FEATURES:
            return f"{n}×{k} is below {replace.MIN_FEATURES} features"
        if k % 4:
            return f"K = {k} is not divisible by 4"
        if dtype not in NATIVE_DTYPES:
            return f"its weight is {dtype_name(dtype)}"
        return self._format.why_not(n, k, ELEMENT_TYPES[dtype])

    def _arrive(self, layer: nn.Module, weight: Tensor | PackedWeight) -> None:
        """Take the weight of a first loading."""
        found = self._in_format(weight)
        if found is None:
            assert isinstance(weight, Tensor), "what is packed has a format"
            self.run_dense(layer, weight)
            self._layers.arrived(self, layer, no_pattern(weight, self._sizes, self._parts.names))
            return
        self._use(found.format)
        self._settle(found)
        self._hold(layer, found)
        self._layers.arrived(self, layer, found)

    def _use(self, format: Format) -> None:
        """Multiply by weights in a format from now on."""
        self._format, self._op = format, format.op
        self._names = (_PACKED, *(f"weight_{part}" for part in format.part_names[1:]))

    def _in_format(self, weight: Tensor | PackedWeight) -> PackedWeight | None:
        """Return a weight in the format that is asked for, or of its own pattern; None if it has none."""
        wanted = find(self._options.format)
        if isinstance(weight, PackedWeight):
            n, k = weight.shape
            keeps = wanted is weight.format or wanted.pattern != weight.format.pattern or weight.format.lossy
            if keeps or wanted.why_not(n, k, ELEMENT_TYPES[weight.dtype]) is not None:
                return weight
            return packed.pack(weight.unpack(), wanted.name, name=self.name)
        return replace.pack(weight, self._prunes, self.name, wanted.name)

    def _repacked(self, weight: Tensor | PackedWeight) -> PackedWeight:
        """Return the weight of a later loading: how the layer runs was decided, and is in captured graphs."""
        if isinstance(weight, PackedWeight) and weight.format is self._format:
            found = weight
        else:
            dense = weight.unpack() if isinstance(weight, PackedWeight) else weight
            pattern = Pattern.of(self._format.pattern)
            if self._prunes is None and not pattern.holds(dense):
                rule = (
                    f"the layer runs {pattern}, but what was loaded in place of its weight is not {pattern}"
                )
                raise WeightError(f"layer {self.name}", rule, "prune it, or start the engine anew")
            dense = dense if self._prunes is None else pattern.prune(dense, name=self.name)
            found = packed.pack(dense, self._format.name, name=self.name)
        self._settle(found)
        if self._keeps_dense:
            found.keep_dense()
        return found

    @property
    def _prunes(self) -> Prune | None:
        return None if any(self._packed) else self._options.prune

    def _settle(self, weight: PackedWeight) -> None:
        """Move a weight into memory of its own, which vLLM couldn't take back in its sleep."""
        model = get_current_vllm_config().model_config
        if model is None or not model.enable_sleep_mode:
            weight.settle()

    def _hold(self, layer: nn.Module, weight: PackedWeight) -> None:
        for name, tensor in zip(self._names, weight.tensors, strict=True):
            _register(layer, name, tensor)
        if weight.dense is not None:
            _register(layer, _KEPT, weight.dense)

    def _hold_dense(self, layer: nn.Module, weight: Tensor) -> None:
        assert self._dense is not None, "set before"
        _register(layer, VALUES, weight)
        self._dense.process_weights_after_loading(layer)


def no_pattern(weight: Tensor, sizes: Sequence[int], names: Sequence[str]) -> str:
    """Return why a weight stays dense that has no pattern: of a merged one, which of its parts have none.

    Args:
        weight: ``[N, K]``.
        sizes: the rows of each part.
        names: of the parts.
    """
    known = " or ".join((", ".join(p.name for p in PATTERNS[:-1]), PATTERNS[-1].name))
    remedy = "sparseflow prune makes a model 2:4, and the option prune='magnitude' prunes while it loads"
    if len(sizes) != len(names) or len(names) == 1:
        return f"its weight is not {known}; {remedy}"
    starts = itertools.accumulate(sizes, initial=0)
    rows = [weight[start : start + size] for start, size in zip(starts, sizes, strict=False)]
    last = [name.rpartition(".")[2] for name in names]
    bad = [name for name, part in zip(last, rows, strict=True) if pattern_of(part) is None]
    if len(bad) == len(names):
        return f"its weight is not {known}; {remedy}"
    return f"of its parts {', '.join(last)}, which vLLM multiplies as one, {', '.join(bad)} is not {known}"


def _register(layer: nn.Module, name: str, tensor: Tensor | None) -> None:
    assert tensor is not None, "called for what is there"
    layer.register_parameter(name, nn.Parameter(tensor, requires_grad=False))
