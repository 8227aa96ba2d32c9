"""Numbers that only a run tells, and operators of every sort: as eager, or refused by name."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import pytest
import torch
import transformers as tf
import zoo
from torch import Tensor, nn
from torch.nn import functional as F

import sparseflow as sf
from sparseflow.errors import SparseFlowError


class Checking(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.fc = nn.Embedding(10, 16), nn.Linear(16, 16)

    def forward(self, ids: Tensor) -> Tensor:
        torch._check((ids < 10).all().item())
        return self.fc(self.embed(ids))


@pytest.mark.parametrize("inner", ["eager", "inductor"])
def test_an_assertion_on_data_holds_and_raises(inner: str, tmp_path) -> None:
    model = Checking().eval()
    compiled = sf.compile(model, inner=inner)
    good, bad = torch.randint(0, 10, (2, 5)), torch.full((2, 5), 11)
    with torch.no_grad():
        runs = [compiled]
        torch.testing.assert_close(compiled(good), model(good))
        if inner == "eager":
            compiled.save(tmp_path / "artifact")
            runs.append(sf.load(tmp_path / "artifact"))
        for run in runs:
            torch.testing.assert_close(run(good[:1]), model(good[:1]))
            with pytest.raises(RuntimeError):
                run(bad)


def test_llava_with_an_image() -> None:
    vision = tf.CLIPVisionConfig(
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        image_size=28,
        patch_size=14,
        projection_dim=32,
    )
    config = tf.LlavaConfig(
        vision_config=vision,
        text_config=tf.LlamaConfig(**zoo.SMALL),
        image_token_id=95,
        vision_feature_layer=-1,
    )
    model = tf.LlavaForConditionalGeneration(config).eval()
    ids, image = torch.tensor([[1, 95, 95, 95, 95, 5, 6]]), torch.randn(1, 3, 28, 28)
    with torch.no_grad():
        found = sf.compile(model)(input_ids=ids, pixel_values=image).logits
        torch.testing.assert_close(found, model(input_ids=ids, pixel_values=image).logits)


def _checked(x: Tensor, condition: Any) -> Tensor:
    torch._check(condition)
    return x


OPERATORS: dict[str, Callable[[Tensor], Any]] = {
    "item of a float": lambda x: x * x.abs().sum().item(),
    "item of an int": lambda x: x + x.shape[0] * (x > 9).sum().item(),
    "item of a bool": lambda x: x * (x < 9).all().item(),
    "not": lambda x: _checked(x, torch.sym_not((x > 9).any().item())),
    "and": lambda x: _checked(x, operator.and_((x < 9).all().item(), (x > -9).all().item())),
    "max of ints": lambda x: x + torch.sym_max((x > 0).sum().item(), 1),
    "min of ints": lambda x: x + torch.sym_min((x > 0).sum().item(), 1),
    "sum of ints": lambda x: x + torch.sym_sum([x.shape[0], x.shape[1], 1]),
    "ite": lambda x: x + torch.sym_ite(x.shape[0] > 2, 1, 2),
    "float of a size": lambda x: x * torch.sym_float(x.shape[0]),
    "int of a sum": lambda x: x + int((x > 0).sum()),
    "tolist": lambda x: x + (x > 9).sum(0).tolist()[0],
    "where": lambda x: torch.where(x > 0, x, 0.5),
    "where of three": lambda x: torch.where(x > 0, x, -x),
    "masked fill": lambda x: x.masked_fill(x > 0, float("-inf")),
    "nonzero": lambda x: x.nonzero(),
    "boolean index": lambda x: x[x > 0],
    "masked select": lambda x: x.masked_select(x > 0).sum() + x,
    "unique": lambda x: (x > 0).to(torch.int64).unique().sum() + x,
    "repeat interleave": lambda x: x.repeat_interleave(2, 0),
    "bincount": lambda x: torch.bincount((x > 0).flatten().long(), minlength=2),
    "scatter reduce": lambda x: x.scatter_reduce(0, (x > 0).long(), x, "sum"),
    "index put": lambda x: x.index_put((torch.tensor([0]), torch.tensor([1])), torch.tensor(1.0)),
    "sort": lambda x: torch.sort(x, dim=-1, stable=True),
    "topk": lambda x: x.topk(3),
    "max with indices": lambda x: x.max(-1),
    "complex": lambda x: torch.view_as_real(torch.fft.fft(x)),
    "polar": lambda x: torch.view_as_real(torch.polar(x.abs(), x)),
    "float8": lambda x: x.to(torch.float8_e4m3fn).float(),
    "unsigned": lambda x: x.abs().to(torch.uint16).int(),
    "no dimensions": lambda x: x.sum(),
    "layer norm": lambda x: torch.native_layer_norm(x, (16,), None, None, 1e-5),
    "split": lambda x: x.split([5, 11], -1),
    "unbind": lambda x: x.unbind(0),
    "einsum": lambda x: torch.einsum("ij,kj->ik", x, x),
    "interpolate": lambda x: F.interpolate(x[None, None], scale_factor=2.0, mode="nearest"),
    "pad": lambda x: F.pad(x, (1, 2), value=3.0),
    "cumulative": lambda x: torch.cummax(x, -1),
    "memory format": lambda x: x[None, :, :, None].contiguous(memory_format=torch.channels_last),
    "vmap": lambda x: torch.vmap(lambda row: row * row.sum())(x),
    "roll and flip": lambda x: x.roll(1, 0).flip(-1),
    "bucketize": lambda x: torch.bucketize(x, torch.tensor([-1.0, 0.0, 1.0])),
    "assertion without a message": lambda x: (torch._assert_async((x < 9).all()), x)[1],
}


class Applying(nn.Module):
    def __init__(self, function: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.fc = nn.Linear(16, 16)
        object.__setattr__(self, "function", function)

    def forward(self, x: Tensor) -> Any:
        return self.function(self.fc(x))


@pytest.mark.parametrize("name", OPERATORS)
def test_operators_are_as_in_eager_or_refused_by_name(name: str) -> None:
    torch.manual_seed(0)
    model = Applying(OPERATORS[name]).eval()
    compiled = sf.compile(model)
    with torch.no_grad():
        for x in (torch.randn(3, 16), torch.randn(5, 16)):
            expected = model(x)
            try:
                found = compiled(x)
            except SparseFlowError:
                assert name in REFUSED
                return
            assert type(found) is type(expected)
            torch.testing.assert_close(found, expected, equal_nan=True)
    assert name not in REFUSED


REFUSED = frozenset({"int of a sum", "unsigned"})
"""What can't be captured or imported today."""
