"""Layers of vLLM that leave out inputs near zero, by thresholds of a file."""

from __future__ import annotations

import pytest
import torch
from vllm_rank import one_rank

import sparseflow as sf
from sparseflow.contextual.activations.activation_thresholds import LayerThreshold
from sparseflow.errors import ArgumentError, CheckpointError

K, ROWS = 64, {"gate_proj": 48, "up_proj": 48}
NAME = "model.layers.0.mlp"


@pytest.fixture
def engine():
    with one_rank() as config:
        config.scheduler_config.max_num_seqs = 4
        yield config


def saved(tmp_path, width: int = K, **thresholds: float) -> str:
    layers = {
        f"{NAME}.{part}": LayerThreshold(threshold, 0.4, 0.0, (ROWS[part], width))
        for part, threshold in thresholds.items()
    }
    path = tmp_path / "thresholds.json"
    sf.ActivationThresholds(layers).save(path)
    return str(path)


def gate_up(engine, path: str, **options):
    """The merged layer, its weight, and the configuration of the method."""
    from vllm.model_executor.layers.linear import MergedColumnParallelLinear

    from sparseflow.integrations.vllm.engine_config import SparseFlowEngineConfig

    engine.additional_config["sparseflow"] = {"policy": "sparse", "thresholds": path, **options}
    config = SparseFlowEngineConfig.from_config({"quant_method": "sparseflow"})
    config.packed_modules_mapping = {"gate_up_proj": list(ROWS)}
    layer = MergedColumnParallelLinear(
        K,
        list(ROWS.values()),
        bias=False,
        quant_config=config,
        prefix=f"{NAME}.gate_up_proj",
        params_dtype=torch.float32,
    )
    weights = [torch.randn(rows, K) for rows in ROWS.values()]
    for index, weight in enumerate(weights):
        layer.weight.weight_loader(layer.weight, weight, index)
    layer.quant_method.process_weights_after_loading(layer)  # vLLM does again
    return layer, torch.cat(weights), config


def test_few_rows_leave_out_inputs_below_the_least_threshold_of_the_parts(engine, tmp_path) -> None:
    layer, weight, config = gate_up(engine, saved(tmp_path, gate_proj=0.7, up_proj=0.5))
    assert {name for name, _ in layer.named_parameters()} == {"weight_turned"}
    assert config.layers.by_columns[f"{NAME}.gate_up_proj"][0] == 0.5
    assert any("1 layers leave out inputs near zero" in line for line in config.layers.lines())
    for m, selects in ((0, True), (1, True), (8, True), (9, False), (40, False)):
        x = torch.randn(m, K)
        kept = x.where(x.abs() >= 0.5, torch.zeros(())) if selects else x
        y = layer.quant_method.apply(layer, x)
        torch.testing.assert_close(y, (kept.double() @ weight.double().T).float(), atol=1e-4, rtol=1e-4)


def test_choices_enter_the_hash(engine, tmp_path) -> None:
    hashes = set()
    for threshold in (0.5, 0.6):
        gate_up(engine, saved(tmp_path, gate_proj=threshold, up_proj=threshold))
        hashes.add(engine.additional_config["sparseflow_choices"])
    assert len(hashes) == 2


@pytest.mark.parametrize("thresholds", [{"gate_proj": 0.5}, {"gate_proj": 0.5, "up_proj": 0.0}])
def test_a_layer_of_which_a_part_has_no_threshold_reads_all_inputs(engine, tmp_path, thresholds) -> None:
    _, _, config = gate_up(engine, saved(tmp_path, **thresholds), prune="magnitude")
    assert not config.layers.by_columns
    assert list(config.layers.sparse) == [f"{NAME}.gate_up_proj"]


def test_an_engine_of_many_sequences_reads_all_inputs(engine, tmp_path) -> None:
    engine.scheduler_config.max_num_seqs = 9
    _, _, config = gate_up(engine, saved(tmp_path, gate_proj=0.5, up_proj=0.5))
    assert not config.layers.by_columns
    assert any("no inputs are left out: thresholds pay for up to 8" in s for s in config.layers.lines())


def test_what_was_measured_to_be_slower_is_dense_with_the_figures(engine, tmp_path, monkeypatch) -> None:
    from sparseflow.contextual.activations.column_policies import ColumnPolicy
    from sparseflow.integrations.vllm import column_method

    monkeypatch.setattr(column_method, "column_policy", lambda shape: ColumnPolicy(0, ((1, 0.8),)))
    layer, weight, config = gate_up(engine, saved(tmp_path, gate_proj=0.5, up_proj=0.5), policy="auto")
    assert "no faster than dense: M=1 0.80×" in config.layers.dense[f"{NAME}.gate_up_proj"]
    x = torch.randn(3, K)
    torch.testing.assert_close(layer.quant_method.apply(layer, x), x @ weight.T, atol=1e-4, rtol=1e-4)


def test_thresholds_of_another_model_are_refused(engine, tmp_path) -> None:
    with pytest.raises(CheckpointError, match="its threshold is for 32 in features, and it has 64"):
        gate_up(engine, saved(tmp_path, 32, gate_proj=0.5, up_proj=0.5))
    with pytest.raises(ArgumentError, match="can't be read"):
        gate_up(engine, str(tmp_path / "none.json"))


def test_batch_invariance_is_refused(engine, tmp_path, monkeypatch) -> None:
    import vllm.envs

    monkeypatch.setattr(vllm.envs, "VLLM_BATCH_INVARIANT", True, raising=False)
    with pytest.raises(ArgumentError, match="VLLM_BATCH_INVARIANT"):
        gate_up(engine, saved(tmp_path, gate_proj=0.5, up_proj=0.5))
