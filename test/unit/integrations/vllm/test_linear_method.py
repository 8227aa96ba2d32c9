"""Layers of vLLM with our method: loaded from every form, cut for ranks, refused, loaded again."""

from __future__ import annotations

import re
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from vllm_rank import one_rank

import sparseflow as sf
from sparseflow.errors import ArgumentError, CheckpointError, WeightError
from sparseflow.integrations.compressed_tensors import to_bitmask
from sparseflow.runtime import PackedWeight, packed

HIDDEN, HEAD, HEADS, KV_HEADS = 72, 16, 4, 2
ROWS = {"q": HEADS * HEAD, "k": KV_HEADS * HEAD, "v": KV_HEADS * HEAD}
QKV = "model.layers.0.self_attn.qkv_proj"
O_PROJ = "model.layers.0.self_attn.o_proj"
MAPPING = {"qkv_proj": ["q_proj", "k_proj", "v_proj"]}
NAMES = {part: f"model.layers.0.self_attn.{part}_proj" for part in "qkv"}


@pytest.fixture
def engine():
    with one_rank() as config:
        yield config


def method(declared: dict, **options):
    from vllm.config import get_current_vllm_config

    from sparseflow.integrations.vllm.engine_config import SparseFlowEngineConfig

    get_current_vllm_config().additional_config = {"sparseflow": {"policy": "sparse", **options}}
    config = SparseFlowEngineConfig.from_config(declared)
    config.packed_modules_mapping = MAPPING
    return config


def packed_folder(*layers: str, **patterns: list) -> dict:
    found = {"quant_method": "sparseflow", "format_version": 2, "layers": list(layers)}
    return {**found, "patterns": {NAMES[part]: kind for part, kind in patterns.items()}}


def bitmask_folder() -> dict:
    sparsity = {"format": "sparse-24-bitmask", "targets": ["Linear"], "ignore": ["lm_head"]}
    return {"quant_method": "compressed-tensors", "sparsity_config": sparsity}


def qkv(config, **more):
    from vllm.model_executor.layers.linear import QKVParallelLinear

    options = {"bias": False, "params_dtype": torch.float32, "quant_config": config, "prefix": QKV, **more}
    return QKVParallelLinear(HIDDEN, HEAD, HEADS, KV_HEADS, **options)


def weights(sparse: str = "qkv") -> dict[str, torch.Tensor]:
    found = {part: torch.randn(rows, HIDDEN) for part, rows in ROWS.items()}
    return {part: sf.prune_24(w) if part in sparse else w for part, w in found.items()}


def load(layer, name: str, tensor: torch.Tensor, *shard) -> None:
    param = getattr(layer, name)
    param.weight_loader(param, tensor, *shard)


def load_packed(layer, dense: dict[str, torch.Tensor], **formats: str) -> None:
    for part, w in dense.items():
        values, positions = packed.pack(w, formats.get(part, "2:4")).portable()
        load(layer, "weight", values, part)
        load(layer, "positions", positions, part)


def load_bitmask(layer, dense: dict[str, torch.Tensor]) -> None:
    for part, w in dense.items():
        values, mask = to_bitmask(sf.compress_2_4(w))
        load(layer, "compressed", values, part)
        load(layer, "bitmask", mask, part)
        load(layer, "shape", torch.tensor(w.shape).reshape(-1, 1), part)


def process(layer) -> None:
    layer.quant_method.process_weights_after_loading(layer)
    layer.quant_method.process_weights_after_loading(layer)  # vLLM does


def require_product(layer, weight: torch.Tensor, bias: torch.Tensor | None = None) -> None:
    for m in (0, 1, 3, 33):
        x = torch.randn(m, weight.shape[1])
        wide = x.double() @ weight.double().T + (0 if bias is None else bias.double())
        y = layer.quant_method.apply(layer, x, bias)
        torch.testing.assert_close(y, wide.float(), atol=1e-4, rtol=1e-4)


def names(layer) -> set[str]:
    return {name for name, _ in layer.named_parameters()}


def test_a_packed_folder(engine) -> None:
    config, dense = method(packed_folder(*NAMES.values())), weights()
    layer = qkv(config)
    load_packed(layer, dense)
    process(layer)
    assert names(layer) == {"weight_packed", "weight_positions"}
    assert list(config.layers.sparse) == [QKV]
    require_product(layer, torch.cat(list(dense.values())), torch.randn(sum(ROWS.values())))


def pruned(pattern: str, weight: torch.Tensor) -> torch.Tensor:
    return sf.Pattern.of(pattern).prune(weight)


@pytest.mark.parametrize("pattern", ["4:6", "6:8"])
def test_a_packed_folder_of_another_pattern(engine, pattern) -> None:
    config = method(packed_folder(*NAMES.values(), **{part: [pattern, HIDDEN] for part in "qkv"}))
    dense = {part: pruned(pattern, w) for part, w in weights("").items()}
    layer = qkv(config)
    load_packed(layer, dense, **dict.fromkeys("qkv", pattern))
    process(layer)
    assert names(layer) == {"weight_packed", "weight_positions"}
    assert list(config.layers.sparse) == [QKV]
    assert any(f"float32, {pattern})" in line for line in config.layers.lines())
    require_product(layer, torch.cat(list(dense.values())))
    torch.testing.assert_close(layer.quant_method.dequantize_weight(layer), torch.cat(list(dense.values())))


def test_parts_of_several_patterns_have_that_of_the_densest(engine) -> None:
    config = method(packed_folder(NAMES["q"], NAMES["k"], k=["6:8", HIDDEN]))
    found = weights("")
    dense = {"q": sf.prune_24(found["q"]), "k": pruned("6:8", found["k"]), "v": pruned("6:8", found["v"])}
    layer = qkv(config)
    load_packed(layer, {part: dense[part] for part in "qk"}, k="6:8")
    load(layer, "weight", dense["v"], "v")
    process(layer)
    assert any("float32, 6:8)" in line for line in config.layers.lines())
    require_product(layer, torch.cat(list(dense.values())))


@pytest.mark.parametrize("prune", [None, "magnitude"])
@pytest.mark.parametrize("pattern", ["4:6", "6:8"])
def test_dense_weights_of_another_pattern(engine, pattern, prune) -> None:
    options = {"prune": prune, "format": pattern} if prune else {}
    config = method({"quant_method": "sparseflow"}, **options)
    layer = qkv(config)
    dense = weights("")
    if not prune:
        dense = {part: pruned(pattern, w) for part, w in dense.items()}
    for part, w in dense.items():
        load(layer, "weight", w, part)
    assert list(config.layers.sparse) == [QKV]
    require_product(layer, torch.cat([pruned(pattern, w) for w in dense.values()]))


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize(("pattern", "k"), [("4:6", 72), ("4:6", 36), ("6:8", 80), ("6:8", 128)])
def test_columns_of_another_pattern_are_cut_for_ranks(engine, monkeypatch, pattern, k, rank) -> None:
    from vllm.model_executor import parameter
    from vllm.model_executor.layers import linear

    for module in (linear, parameter):
        monkeypatch.setattr(module, "get_tensor_model_parallel_world_size", lambda: 2)
        monkeypatch.setattr(module, "get_tensor_model_parallel_rank", lambda: rank)
    declared = packed_folder(O_PROJ)
    declared["patterns"] = {O_PROJ: [pattern, k]}
    layer = linear.RowParallelLinear(
        k, 48, bias=False, quant_config=method(declared), prefix=O_PROJ, params_dtype=torch.float32
    )
    dense = pruned(pattern, torch.randn(48, k))
    values, positions = packed.pack(dense, pattern).portable()
    load(layer, "weight", values)
    load(layer, "positions", positions)
    process(layer)
    require_product(layer, dense[:, k // 2 * rank :][:, : k // 2])


def test_what_a_folder_says_of_patterns_must_fit_the_model(engine) -> None:
    with pytest.raises(CheckpointError, match="80 in features in the checkpoint; the model needs 72"):
        qkv(method(packed_folder(*NAMES.values(), k=["6:8", 80])))
    with pytest.raises(CheckpointError, match="patterns must give each layer"):
        method(packed_folder(*NAMES.values(), k=["3:5", 72]))


def test_a_bitmask(engine) -> None:
    config, dense = method(bitmask_folder()), weights()
    layer = qkv(config)
    load_bitmask(layer, dense)
    process(layer)
    assert names(layer) == {"weight_packed", "weight_positions"}
    require_product(layer, torch.cat(list(dense.values())))


@pytest.mark.parametrize("prune", [None, "magnitude"])
def test_dense_weights_are_packed_as_soon_as_all_parts_are_there(engine, prune) -> None:
    config = method({"quant_method": "sparseflow"}, prune=prune)
    layer = qkv(config)
    assert layer.weight.is_meta
    dense = weights("" if prune else "qkv")
    for part, w in dense.items():
        assert names(layer) == {"weight"}
        load(layer, "weight", w, part)
    assert names(layer) == {"weight_packed", "weight_positions"}
    process(layer)
    require_product(layer, torch.cat([sf.prune_24(w) for w in dense.values()]))


def test_the_options_of_a_folder_are_those_of_the_user_where_he_gives_them(engine) -> None:
    config = method({**packed_folder(), "policy": "auto", "memory": "fast"})
    assert (config.layers.options.policy, config.layers.options.memory) == ("sparse", "fast")


@pytest.mark.parametrize(
    ("sparse", "reason"),
    [
        ("", "its weight is not 2:4, 4:6 or 6:8"),
        ("qk", "of its parts q_proj, k_proj, v_proj, which vLLM multiplies as one, v_proj is not 2:4, 4:6"),
    ],
)
def test_weights_that_are_not_24_stay_dense(engine, sparse, reason) -> None:
    config, dense = method({"quant_method": "sparseflow"}), weights(sparse)
    layer = qkv(config)
    for part, w in dense.items():
        load(layer, "weight", w, part)
    process(layer)
    assert config.layers.dense[QKV].startswith(reason)
    require_product(layer, torch.cat(list(dense.values())))


@pytest.mark.parametrize("sparse", ["qk", "qkv"])
@pytest.mark.parametrize("form", ["sparseflow", "sparse-24-bitmask"])
def test_a_merged_layer_of_packed_and_dense_parts_is_decided_about_as_a_whole(engine, form, sparse) -> None:
    declared = packed_folder(NAMES["q"], NAMES["k"])
    if form != "sparseflow":
        declared = bitmask_folder()
        declared["sparsity_config"]["ignore"] = ["re:.*v_proj"]
    config, dense = method(declared), weights(sparse)
    layer = qkv(config)
    loading = load_packed if form == "sparseflow" else load_bitmask
    loading(layer, {part: dense[part] for part in "qk"})
    load(layer, "weight", dense["v"], "v")
    process(layer)
    whole = torch.cat(list(dense.values()))
    if sparse == "qkv":
        assert list(config.layers.sparse) == [QKV]
    else:
        assert config.layers.dense[QKV].endswith("v_proj is not 2:4, 4:6 or 6:8")
    require_product(layer, whole)


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("form", ["sparseflow", "sparse-24-bitmask"])
def test_columns_are_cut_for_ranks_inside_of_a_byte_of_positions(engine, monkeypatch, form, rank) -> None:
    from vllm.model_executor import parameter
    from vllm.model_executor.layers import linear

    for module in (linear, parameter):
        monkeypatch.setattr(module, "get_tensor_model_parallel_world_size", lambda: 2)
        monkeypatch.setattr(module, "get_tensor_model_parallel_rank", lambda: rank)
    config = method(packed_folder(O_PROJ) if form == "sparseflow" else bitmask_folder())
    layer = linear.RowParallelLinear(
        HIDDEN, 48, bias=False, quant_config=config, prefix=O_PROJ, params_dtype=torch.float32
    )
    dense = sf.prune_24(torch.randn(48, HIDDEN))
    (load_packed if form == "sparseflow" else load_bitmask)(layer, {None: dense})
    process(layer)
    require_product(layer, dense[:, HIDDEN // 2 * rank :][:, : HIDDEN // 2])


@pytest.mark.parametrize("rank", [0, 1])
def test_rows_are_cut_for_ranks(engine, monkeypatch, rank) -> None:
    from vllm.model_executor import parameter
    from vllm.model_executor.layers import linear

    for module in (linear, parameter):
        monkeypatch.setattr(module, "get_tensor_model_parallel_world_size", lambda: 2)
        monkeypatch.setattr(module, "get_tensor_model_parallel_rank", lambda: rank)
    config, dense = method(packed_folder(*NAMES.values())), weights()
    layer = qkv(config)
    load_packed(layer, dense)
    process(layer)
    require_product(layer, torch.cat([w.chunk(2)[rank] for w in dense.values()]))


def _missing(layer, dense) -> None:
    load_packed(layer, {part: dense[part] for part in "qk"})


def _no_positions(layer, dense) -> None:
    load_packed(layer, {part: dense[part] for part in "qv"})
    load(layer, "weight", sf.compress_2_4(dense["k"]).portable()[0], "k")


def _rows(layer, dense) -> None:
    load_packed(layer, {**dense, "k": torch.cat([dense["k"]] * 2)})


def _columns(layer, dense) -> None:
    load_packed(layer, {**dense, "k": dense["k"][:, :64]})


def _positions(layer, dense) -> None:
    load_packed(layer, dense)
    layer.positions.data[3, 1] = 0


def _not_finite(layer, dense) -> None:
    load_packed(layer, dense)
    layer.weight.data[5, 2] = float("nan")


@pytest.mark.parametrize(
    ("breaking", "error", "text"),
    [
        (_missing, CheckpointError, "v_proj.weight"),
        (_no_positions, CheckpointError, "k_proj.positions"),
        (_rows, CheckpointError, "needs a matrix of 32 rows"),
        (_columns, CheckpointError, "needs 36 columns"),
        (_positions, WeightError, "row 3, group 2"),
        (_not_finite, WeightError, "row 5, column 2"),
    ],
)
def test_a_malformed_packed_folder_is_refused(engine, breaking, error, text) -> None:
    layer = qkv(method(packed_folder(*NAMES.values())))

    def loading() -> None:
        breaking(layer, weights())
        process(layer)

    with pytest.raises(error, match=re.escape(text)):
        loading()


def test_a_malformed_bitmask_is_refused(engine) -> None:
    layer, dense = qkv(method(bitmask_folder())), weights()
    mask = to_bitmask(sf.compress_2_4(dense["q"]))[1]
    mask[7, 0] = 0b0011_0111
    with pytest.raises(WeightError, match=r"row 7: a group .* doesn't keep 2 of 4"):
        load(layer, "bitmask", mask, "q")
    with pytest.raises(CheckpointError, match="72 columns"):
        load(layer, "shape", torch.tensor([[64], [64]]), "q")
    with pytest.raises(CheckpointError, match="not uint8"):
        load(layer, "bitmask", mask.int(), "q")


def test_a_packed_layer_that_ranks_cut_inside_of_a_group_is_refused(engine, monkeypatch) -> None:
    from vllm.model_executor.layers import linear

    monkeypatch.setattr(linear, "get_tensor_model_parallel_world_size", lambda: 4)
    with pytest.raises(ArgumentError, match="18 columns, which are no groups of 4"):
        linear.RowParallelLinear(HIDDEN, 48, quant_config=method(packed_folder(O_PROJ)), prefix=O_PROJ)


def test_what_stays_dense_has_a_reason(engine) -> None:
    from vllm.model_executor.layers.linear import ReplicatedLinear, UnquantizedLinearMethod

    config = method({"quant_method": "sparseflow"}, skip=["*.k_proj"])
    assert isinstance(qkv(config).quant_method, UnquantizedLinearMethod)
    assert config.layers.dense[QKV] == f"skip has '*.k_proj', and {NAMES['k']} is a part of it"
    ReplicatedLinear(18, 32, quant_config=config, prefix="model.odd", params_dtype=torch.float32)
    assert config.layers.dense["model.odd"] == "K = 18 is not divisible by 4"
    ReplicatedLinear(64, 8, quant_config=config, prefix="model.small", params_dtype=torch.float32)
    assert config.layers.dense["model.small"] == "8×64 is below 16 features"
    packed = method(packed_folder(NAMES["q"]))
    ReplicatedLinear(64, 32, quant_config=packed, prefix="model.other", params_dtype=torch.float32)
    assert packed.layers.dense["model.other"] == "it is dense in the checkpoint, others are packed"


class RoutedExperts(nn.Module):
    pass


def test_experts_stay_dense_and_other_packed_modules_are_refused(engine) -> None:
    config = method(packed_folder("lm_head"))
    assert config.get_quant_method(RoutedExperts(), "model.layers.0.mlp.experts") is None
    assert "experts stay dense" in config.layers.dense["model.layers.0.mlp.experts"]
    assert config.get_quant_method(nn.Embedding(4, 4), "model.embed_tokens") is None
    with pytest.raises(CheckpointError, match="lm_head: it is packed in the checkpoint"):
        config.get_quant_method(nn.Embedding(4, 4), "lm_head")


@pytest.mark.parametrize(
    "options", [{"prune": "wanda"}, {"Policy": "auto"}, {"format": "1:2"}, {"skip": "k"}]
)
def test_wrong_options_are_refused(engine, options) -> None:
    with pytest.raises(ArgumentError):
        _ = method({"quant_method": "sparseflow"}, **options).layers
    with pytest.raises(ArgumentError):
        method({"quant_method": "sparseflow", **options})


def test_a_folder_of_another_version_is_refused(engine) -> None:
    with pytest.raises(CheckpointError, match="format version"):
        method({**packed_folder(), "format_version": 3})


def test_only_bitmask_checkpoints_are_claimed(engine) -> None:
    from sparseflow.integrations.vllm.engine_config import SparseFlowEngineConfig

    claim = SparseFlowEngineConfig.override_quantization_method
    assert claim(bitmask_folder(), None) == "sparseflow"
    assert claim(bitmask_folder(), "sparseflow") == "sparseflow"
    for declared in (
        {**bitmask_folder(), "config_groups": {"group_0": {}}},
        {"quant_method": "compressed-tensors", "sparsity_config": {"format": "dense"}},
        {"quant_method": "fp8"},
        {"quant_method": "sparseflow"},
        {},
    ):
        assert claim(declared, None) is None
    assert claim({"quant_method": "fp8"}, "sparseflow") == "sparseflow"
    assert claim({"quant_method": "fp8", "weight_block_size": [128, 128]}, "sparseflow") == "sparseflow"
    assert claim(bitmask_folder(), "compressed-tensors") is None


def test_choices_enter_the_hash_of_compiled_graphs(engine) -> None:
    hashes = []
    for sparse in ("qkv", "qkv", ""):
        config, dense = method({"quant_method": "sparseflow"}), weights(sparse)
        before = engine.compute_hash()
        layer = qkv(config)
        for part, w in dense.items():
            load(layer, "weight", w, part)
        hashes.append(engine.compute_hash())
        assert hashes[-1] != before
    assert hashes[0] == hashes[1] != hashes[2]


def test_batch_invariance_is_refused(engine, monkeypatch) -> None:
    import vllm.envs

    monkeypatch.setattr(vllm.envs, "VLLM_BATCH_INVARIANT", True, raising=False)
    layer = qkv(method({"quant_method": "sparseflow"}))
    dense = weights()
    for part in "qk":
        load(layer, "weight", dense[part], part)
    with pytest.raises(ArgumentError, match=f"VLLM_BATCH_INVARIANT: layer {QKV}"):
        load(layer, "weight", dense["v"], "v")


@pytest.mark.parametrize("form", ["dense", "sparseflow"])
def test_weights_that_are_loaded_again_come_to_where_graphs_read_them(engine, form) -> None:
    from vllm.model_executor.model_loader.reload import (
        finalize_layerwise_reload,
        initialize_layerwise_reload,
        record_metadata_for_reloading,
    )

    declared = packed_folder(*NAMES.values()) if form == "sparseflow" else {"quant_method": "sparseflow"}
    model = nn.Module()
    model.qkv_proj = layer = qkv(method(declared))
    record_metadata_for_reloading(model)

    def loading(dense) -> None:
        if form == "sparseflow":
            load_packed(layer, dense)
            return
        for part, w in dense.items():
            load(layer, "weight", w, part)

    loading(weights())
    process(layer)
    places = {name: param.data_ptr() for name, param in layer.named_parameters()}
    again = weights()
    initialize_layerwise_reload(model)
    loading(again)
    finalize_layerwise_reload(model, None)
    assert {name: param.data_ptr() for name, param in layer.named_parameters()} == places
    require_product(layer, torch.cat(list(again.values())))
    if form == "dense":
        initialize_layerwise_reload(model)
        with pytest.raises(WeightError, match="the layer runs 2:4"):
            loading(weights(""))


def test_a_stage_decides_about_its_own_layers(engine) -> None:
    """Pipeline parallel: a rank makes and loads the layers of its stage alone, whatever config.json names."""
    other = [name.replace("layers.0", "layers.1") for name in NAMES.values()]
    config, dense = method(packed_folder(*NAMES.values(), *other)), weights()
    layer = qkv(config, prefix=QKV.replace("layers.0", "layers.1"))
    load_packed(layer, dense)
    process(layer)
    assert list(config.layers.sparse) == [QKV.replace("layers.0", "layers.1")]
    assert not config.layers.dense
    require_product(layer, torch.cat(list(dense.values())))


@pytest.mark.parametrize("form", ["dense", "sparseflow"])
def test_a_layer_sleeps_and_wakes(engine, monkeypatch, form) -> None:
    """As vLLM's sleep does: level 1 keeps a copy of what the parameters lie in, level 2 loads it again."""
    from vllm.model_executor.model_loader.reload import (
        finalize_layerwise_reload,
        initialize_layerwise_reload,
        record_metadata_for_reloading,
    )

    engine.model_config = SimpleNamespace(enable_sleep_mode=True, model="none")
    # Memory of its own is out of the reach of vLLM's pool.
    monkeypatch.setattr(PackedWeight, "settle", lambda self: pytest.fail("vLLM can't take this memory back"))
    declared = packed_folder(*NAMES.values()) if form == "sparseflow" else {"quant_method": "sparseflow"}
    model = nn.Module()
    model.qkv_proj = layer = qkv(method(declared))
    record_metadata_for_reloading(model)
    first, second = weights(), weights()

    def loading(dense: dict[str, torch.Tensor]) -> None:
        if form == "sparseflow":
            load_packed(layer, dense)
        for part, w in dense.items() if form == "dense" else ():
            load(layer, "weight", w, part)

    loading(first)
    process(layer)
    x = torch.randn(3, HIDDEN)
    asleep = {name: param.detach().clone() for name, param in layer.named_parameters()}
    before = layer.quant_method.apply(layer, x)
    for param in layer.parameters():
        param.data.zero_()
    assert not torch.equal(layer.quant_method.apply(layer, x), before)
    for name, param in layer.named_parameters():
        param.data.copy_(asleep[name])
    assert torch.equal(layer.quant_method.apply(layer, x), before)
    require_product(layer, torch.cat(list(first.values())))
    for param in layer.parameters():
        param.data.zero_()
    initialize_layerwise_reload(model)
    loading(second)
    finalize_layerwise_reload(model, None)
    require_product(layer, torch.cat(list(second.values())))


def test_lora_and_the_weight_itself(engine) -> None:
    from vllm.lora.layers.utils import _get_lora_device

    layer, dense = qkv(method(packed_folder(*NAMES.values()))), weights()
    load_packed(layer, dense)
    process(layer)
    assert _get_lora_device(layer) == torch.device("cpu")
    torch.testing.assert_close(layer.quant_method.dequantize_weight(layer), torch.cat(list(dense.values())))
