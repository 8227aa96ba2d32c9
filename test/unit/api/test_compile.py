"""sf.compile on plain modules: what it computes, what it keeps, what it says."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import sparseflow as sf
from sparseflow.errors import ArgumentError, CaptureError, InferenceOnlyError, WeightError


class Mlp(nn.Module):
    def __init__(self, width: int = 64, hidden: int = 128) -> None:
        super().__init__()
        self.up = nn.Linear(width, hidden)
        self.down = nn.Linear(hidden, width, bias=False)
        self.head = nn.Linear(width, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(x + self.down(torch.relu(self.up(x))))


def pruned(model: nn.Module, *names: str) -> nn.Module:
    """A copy of the model with the named linears pruned."""
    twin = copy.deepcopy(model)
    with torch.no_grad():
        for name in names:
            layer = twin.get_submodule(name)
            layer.weight.copy_(sf.prune_24(layer.weight))
    return twin


@pytest.fixture
def mlp() -> Mlp:
    return Mlp().eval()


def compiled_mlp(mlp: Mlp, **options: object) -> sf.CompiledModel:
    return sf.compile(mlp, **{"prune": "magnitude", "policy": "sparse", "skip": ("head",), **options})


def test_equals_the_pruned_model_for_any_batch_from_one_capture(mlp: Mlp) -> None:
    compiled, reference = compiled_mlp(mlp), pruned(mlp, "up", "down")
    for batch in (2, 7, 64, 1, 0):
        x = torch.randn(batch, 64)
        torch.testing.assert_close(compiled(x), reference(x), rtol=1e-5, atol=1e-5)
    assert compiled.report.model["programs"] == 1


def test_a_call_of_another_rank_gets_a_second_program_over_the_same_packed_weights(mlp: Mlp) -> None:
    compiled, reference = compiled_mlp(mlp), pruned(mlp, "up", "down")
    for shape in ((64,), (3, 64)):
        x = torch.randn(shape)
        torch.testing.assert_close(compiled(x), reference(x), rtol=1e-5, atol=1e-5)
    graphs = [dict(compiled.graph(program=i).named_buffers()) for i in range(2)]
    assert "1-d" in compiled.report.model["captures"][1]
    storages = [{b.data_ptr() for b in g.values() if b.dtype == torch.uint8} for g in graphs]
    assert storages[0] == storages[1] != set()


def test_leaves_the_callers_model_usable_and_unpruned(mlp: Mlp) -> None:
    before = copy.deepcopy(mlp.state_dict())
    compiled_mlp(mlp)(torch.randn(2, 64))
    assert all(torch.equal(before[k], v) for k, v in mlp.state_dict().items())


def test_inplace_releases_dense_weights_and_using_them_gives_nan(mlp: Mlp) -> None:
    reference = pruned(mlp, "up", "down")
    x = torch.randn(5, 64)
    compiled = compiled_mlp(mlp, inplace=True)
    torch.testing.assert_close(compiled(x), reference(x), rtol=1e-5, atol=1e-5)
    assert mlp.up.weight.untyped_storage().nbytes() == 4
    assert mlp.up.weight.isnan().all()
    torch.testing.assert_close(compiled(x[:1]), reference(x[:1]), rtol=1e-5, atol=1e-5)


def test_report_names_every_linear_with_a_reason(mlp: Mlp) -> None:
    compiled = compiled_mlp(mlp)
    compiled(torch.randn(2, 64))
    layers = {layer.name: layer for layer in compiled.report.layers}
    assert {name: layer.decision for name, layer in layers.items()} == {
        "up": "sparse",
        "down": "sparse",
        "head": "dense",
    }
    assert "head" in layers["head"].reason
    assert "skip" in layers["head"].reason
    assert layers["up"].bytes <= 0.54 * layers["up"].bytes_dense
    assert layers["head"].bytes == layers["head"].bytes_dense
    assert 0.3 < layers["up"].rel_err < 0.6
    assert layers["head"].rel_err == 0


def test_weights_already_24_are_kept_bit_for_bit_and_others_stay_dense_without_pruning(mlp: Mlp) -> None:
    model = pruned(mlp, "up")
    compiled = compiled_mlp(model, prune=None)
    x = torch.randn(4, 64)
    torch.testing.assert_close(compiled(x), model(x), rtol=1e-5, atol=1e-5)
    layers = {layer.name: layer for layer in compiled.report.layers}
    assert layers["up"].decision == "sparse"
    assert layers["up"].rel_err == 0
    assert layers["down"].decision == "dense"
    assert "2:4" in layers["down"].reason


class WithConstant(Mlp):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x) * torch.tensor([[2.0] * 8])


def test_constants_of_the_code_are_no_weights() -> None:
    model = pruned(WithConstant().eval(), "up")
    compiled = compiled_mlp(model, prune=None)
    for shape in ((64,), (3, 64)):
        x = torch.randn(shape)
        torch.testing.assert_close(compiled(x), model(x), rtol=1e-5, atol=1e-5)


def test_mlir_stages_show_the_rewriting(mlp: Mlp) -> None:
    compiled = compiled_mlp(mlp)
    compiled.capture(torch.randn(2, 64))
    assert "torch.aten.linear" in compiled.mlir("torch")
    assert "sparse_gemm.linear" in compiled.mlir("sparse_gemm")
    assert "torch.sparseflow.linear" in compiled.mlir("runtime")
    with pytest.raises(ArgumentError, match="stage"):
        compiled.mlir("llvm")


def test_example_inputs_capture_at_once(mlp: Mlp) -> None:
    compiled = sf.compile(mlp, (torch.randn(2, 64),), prune="magnitude", policy="sparse")
    assert compiled.report.model["programs"] == 1


def test_inductor_gives_the_same(mlp: Mlp) -> None:
    x = torch.randn(6, 64)
    torch.testing.assert_close(
        compiled_mlp(mlp, inner="inductor")(x), compiled_mlp(mlp)(x), rtol=1e-5, atol=1e-5
    )


def test_nan_weights_are_refused_by_name_and_the_model_is_left_alone(mlp: Mlp) -> None:
    with torch.no_grad():
        mlp.down.weight[3, 5] = float("nan")
    up = mlp.up.weight.clone()
    with pytest.raises(WeightError, match=r"down.*\n.*skip"):
        compiled_mlp(mlp, inplace=True)(torch.randn(2, 64))
    assert torch.equal(mlp.up.weight, up)


def test_training_mode_is_refused(mlp: Mlp) -> None:
    with pytest.raises(InferenceOnlyError, match="eval"):
        compiled_mlp(mlp.train())(torch.randn(2, 64))


def test_inputs_that_require_gradients_are_refused(mlp: Mlp) -> None:
    x = torch.randn(2, 64, requires_grad=True)
    compiled = compiled_mlp(mlp)
    with pytest.raises(InferenceOnlyError, match="no_grad"):
        compiled(x)
    with torch.no_grad():
        assert compiled(x).shape == (2, 8)


def test_train_on_the_compiled_model_is_refused(mlp: Mlp) -> None:
    compiled = compiled_mlp(mlp)
    assert compiled.eval() is compiled
    with pytest.raises(InferenceOnlyError, match="inference only"):
        compiled.train()


class Branches(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + 1 if x.sum() > 0 else x - 1


def test_what_torch_export_cannot_capture_gives_its_reason_and_the_way_out() -> None:
    with pytest.raises(CaptureError) as error:
        sf.compile(Branches().eval(), prune="magnitude")(torch.randn(3))
    assert "data-dependent" in str(error.value).lower()
    assert len(str(error.value)) < 2000
    assert error.value.remedy


@pytest.mark.parametrize(
    "options",
    [
        {"prune": "wishful"},
        {"policy": "maybe"},
        {"inner": "tvm"},
        {"skip": "lm_head"},
        {"skip": (1,)},
    ],
)
def test_bad_options_are_refused_at_once(mlp: Mlp, options: dict[str, object]) -> None:
    with pytest.raises(ArgumentError, match=next(iter(options))):
        sf.compile(mlp, **options)


def test_only_modules_compile() -> None:
    with pytest.raises(ArgumentError, match="Module"):
        sf.compile(lambda x: x, prune="magnitude")


def test_attributes_of_the_model_are_reachable(mlp: Mlp) -> None:
    assert sf.compile(mlp, prune="magnitude").up is mlp.up
    with pytest.raises(AttributeError):
        _ = sf.compile(mlp, prune="magnitude").no_such_thing
    with pytest.raises(ArgumentError, match="generate"):
        sf.compile(mlp, prune="magnitude").generate()


def test_a_report_before_any_capture_is_empty_and_mlir_says_how(mlp: Mlp) -> None:
    compiled = sf.compile(mlp, prune="magnitude")
    assert compiled.report.layers == []
    with pytest.raises(CaptureError, match="call the model once"):
        compiled.mlir()
