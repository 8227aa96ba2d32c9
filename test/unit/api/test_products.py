"""Products with a parameter that are no linear layers: each is in the report, once, with a true reason."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import zoo
from torch import Tensor, nn
from torch.nn import functional as F

import sparseflow as sf
from sparseflow.reports.report import Report


class Free(nn.Module):
    """Parameters, and what a function makes of them and of inputs."""

    def __init__(self, function: Callable[..., Any], **shapes: tuple[int, ...]) -> None:
        super().__init__()
        self.function = function
        for name, shape in shapes.items():
            self.register_parameter(name, nn.Parameter(torch.randn(shape)))

    def forward(self, *inputs: Tensor) -> Any:
        return self.function(self, *inputs)


class SelfAttention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(32, 4, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.attention(x, x, x)[0]


@dataclass(frozen=True)
class Case:
    """A model, the shapes of its inputs, and of each row of the report: N, K and what its reason says."""

    model: Callable[[], nn.Module]
    inputs: tuple[tuple[int, ...], ...]
    rows: dict[str, tuple[int, int, str]]


def free(function: Callable[..., Any], **shapes: tuple[int, ...]) -> Callable[[], nn.Module]:
    return lambda: Free(function, **shapes)


NOT_24 = "its weight is not 2:4"
PART = "it multiplies by a part of the matrix 'in_proj_weight'"
STEPS = "multiplies by its matrices inside one operator"
RANK = "its weight has rank 3; only matrices can be packed"
FORM = "isn't of the form x W"
SEQUENCE = (2, 5, 32)
CASES = {
    "einsum": Case(
        free(lambda s, x: torch.einsum("bsk,nk->bsn", x, s.w), w=(48, 32)),
        (SEQUENCE,),
        {"w": (48, 32, "an einsum 'bsk,nk->bsn': write it as nn.Linear")},
    ),
    "einsum over heads": Case(
        free(lambda s, x: torch.einsum("bsk,hkd->bshd", x, s.w), w=(4, 32, 8)),
        (SEQUENCE,),
        {"w": (128, 8, RANK)},
    ),
    "two einsum operands": Case(
        free(lambda s, x: torch.einsum("bsk,kr,rn->bsn", x, s.a, s.b), a=(32, 16), b=(16, 48)),
        (SEQUENCE,),
        {"a": (32, 16, "an einsum"), "b": (16, 48, "an einsum")},
    ),
    "bmm": Case(free(lambda s, x: torch.bmm(x, s.w), w=(2, 32, 16)), (SEQUENCE,), {"w": (64, 16, RANK)}),
    "experts transposed": Case(
        free(lambda s, x: torch.bmm(x, s.w.transpose(1, 2)), w=(2, 16, 32)),
        (SEQUENCE,),
        {"w": (32, 32, RANK)},
    ),
    "gathered experts": Case(
        free(lambda s, x: torch.bmm(x, s.w[[1, 0]]), w=(3, 32, 16)), (SEQUENCE,), {"w": (96, 16, RANK)}
    ),
    "baddbmm": Case(
        free(lambda s, x: torch.baddbmm(s.b, x, s.w), w=(2, 32, 16), b=(2, 5, 16)),
        (SEQUENCE,),
        {"w": (64, 16, RANK)},
    ),
    "one expert": Case(
        free(lambda s, x: F.linear(x, s.w[1]), w=(3, 16, 32)),
        (SEQUENCE,),
        {"w": (48, 32, "it multiplies by a part of the parameter of rank 3 'w'")},
    ),
    "unsqueezed": Case(
        free(lambda s, x: x @ s.w.unsqueeze(0), w=(32, 16)), (SEQUENCE,), {"w": (32, 16, FORM)}
    ),
    "on the left": Case(free(lambda s, x: s.w @ x, w=(16, 5)), (SEQUENCE,), {"w": (16, 5, FORM)}),
    "cast": Case(
        free(lambda s, x: F.linear(x.bfloat16(), s.w.bfloat16()), w=(16, 32)),
        (SEQUENCE,),
        {"w": (16, 32, "its weight 'w' is cast in each call")},
    ),
    "viewed": Case(
        free(lambda s, x: F.linear(x, s.w.view(-1, 32)), w=(2, 8, 32)),
        (SEQUENCE,),
        {"w": (16, 32, "its weight is a view of 'w'")},
    ),
    "multi_dot": Case(
        free(lambda s, x: torch.linalg.multi_dot([x, s.a, s.b]), a=(32, 16), b=(16, 48)),
        ((5, 32),),
        {"a": (32, 16, FORM), "b": (16, 48, FORM)},
    ),
    "tensordot": Case(
        free(lambda s, x: torch.tensordot(x, s.w, dims=([2], [1])), w=(16, 32)),
        (SEQUENCE,),
        {"w": (16, 32, FORM)},
    ),
    "bilinear": Case(lambda: nn.Bilinear(32, 16, 8), ((3, 32), (3, 16)), {"weight": (256, 16, RANK)}),
    "1x1": Case(
        lambda: nn.Conv2d(16, 32, 1), ((2, 16, 4, 4),), {"weight": (32, 16, "a 1x1 convolution: replace")}
    ),
    "1": Case(lambda: nn.Conv1d(16, 32, 1), ((2, 16, 4),), {"weight": (32, 16, "a 1 convolution: replace")}),
    "3x3": Case(
        lambda: nn.Conv2d(16, 32, 3, padding="same"),
        ((2, 16, 4, 4),),
        {"weight": (32, 144, "a convolution, not a linear layer")},
    ),
    "transposed convolution": Case(
        lambda: nn.ConvTranspose1d(16, 32, 2),
        ((2, 16, 4),),
        {"weight": (16, 64, "a convolution, not a linear layer")},
    ),
    "self-attention": Case(
        SelfAttention,
        (SEQUENCE,),
        {"attention.in_proj_weight": (96, 32, NOT_24), "attention.out_proj": (32, 32, NOT_24)},
    ),
    "cross-attention": Case(
        lambda: nn.MultiheadAttention(32, 4, batch_first=True),
        (SEQUENCE, (2, 7, 32), (2, 7, 32)),
        {"in_proj_weight": (96, 32, PART), "out_proj": (32, 32, NOT_24)},
    ),
    "lstm": Case(
        lambda: nn.LSTM(16, 32, batch_first=True),
        ((2, 5, 16),),
        {"weight_ih_l0": (128, 16, STEPS), "weight_hh_l0": (128, 32, STEPS)},
    ),
    "gru": Case(
        lambda: nn.GRU(16, 32, bidirectional=True),
        ((2, 5, 16),),
        {
            f"weight_{part}_l0{way}": (96, k, STEPS)
            for part, k in (("ih", 16), ("hh", 32))
            for way in ("", "_reverse")
        },
    ),
    "lstm cell": Case(
        lambda: nn.LSTMCell(16, 32),
        ((2, 16),),
        {"weight_ih": (128, 16, STEPS), "weight_hh": (128, 32, STEPS)},
    ),
    "lookups": Case(
        free(lambda s, x: s.table[[0, 2]] + F.embedding(x.argmax(-1), s.table), table=(32, 16)),
        ((2, 32),),
        {},
    ),
    "a sum": Case(free(lambda s, x: x + s.w, w=(5, 32)), (SEQUENCE,), {}),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_every_parameter_that_is_multiplied_by_is_in_the_report_once(case: Case, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, inputs = case.model().eval(), [torch.randn(shape) for shape in case.inputs]
    compiled = sf.compile(model, args=tuple(inputs), policy="sparse")
    with torch.no_grad():
        torch.testing.assert_close(compiled(*inputs), model(*inputs), rtol=1e-4, atol=1e-4)
    found = {layer.name: layer for layer in compiled.report.layers}
    assert len(found) == len(compiled.report.layers)
    assert found.keys() == case.rows.keys()
    for name, (n, k, reason) in case.rows.items():
        layer = found[name]
        assert (layer.N, layer.K, layer.decision) == (n, k, "dense")
        assert layer.bytes == layer.bytes_dense == 4 * n * k
        assert reason in layer.reason
    _require_shown(compiled, tmp_path)


def _require_shown(compiled: Any, folder: Path) -> None:
    """Every form of the report takes all rows, and so does a saved model."""
    report = compiled.report
    table = "".join(report.table(400).split())
    assert all("".join(layer.reason.split()) in table for layer in report.layers)
    assert json.loads(json.dumps(report.to_dict()))["layers"] == [
        vars(layer) | {"ranges": [], "measured": []} for layer in report.layers
    ]
    report.to_html(folder / "report.html")
    report.to_markdown(folder / "report.md")
    text = (folder / "report.md").read_text()
    assert all(layer.name in text for layer in report.layers)
    compiled.save(folder / "artifact")
    assert Report.from_dict(sf.load(folder / "artifact").report).layers == report.layers


@pytest.mark.parametrize("name", ["self-attention", "cross-attention"])
def test_an_attention_that_is_2_4_already_is_sparse_where_it_is_read_whole(name: str) -> None:
    torch.manual_seed(0)
    case = CASES[name]
    model, inputs = case.model().eval(), [torch.randn(shape) for shape in case.inputs]
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 2:
                parameter.copy_(sf.prune_24(parameter))
        for prune in (None, "magnitude"):
            compiled = sf.compile(model, args=tuple(inputs), prune=prune, policy="sparse")
            torch.testing.assert_close(compiled(*inputs), model(*inputs), rtol=1e-4, atol=1e-4)
            found = [layer.decision for layer in compiled.report.layers]
            assert found == (["sparse", "sparse"] if name == "self-attention" else ["dense", "sparse"])
            assert not any(layer.rel_err for layer in compiled.report.layers)


def test_a_computed_weight_is_called_by_its_module() -> None:
    model = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(16, 32)), nn.Linear(32, 16)).eval()
    first, _ = sf.compile(model, args=(torch.randn(2, 16),)).report.layers
    assert (first.name, first.N, first.K) == ("0", 32, 16)
    assert first.reason == "its weight is computed at run time"


def test_mixtures_of_experts_are_in_the_report() -> None:
    model, calls = zoo.model_and_calls("mixtral")
    args, kwargs = calls[0]
    report = sf.compile(model, args=args, kwargs=kwargs).report
    reasons = {layer.name: layer.reason for layer in report.layers}
    experts = [name for name in reasons if "experts" in name]
    assert experts
    assert all("rank 3" in reasons[name] for name in experts)
