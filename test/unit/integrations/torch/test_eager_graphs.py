"""What the backend can't compile runs as torch.compile captured it: one warning, and rows in the report."""

from __future__ import annotations

import warnings

import pytest
import torch
import transformers as tf
import zoo
from torch import Tensor, nn

import sparseflow.integrations.torch
from sparseflow.errors import ArgumentError, CaptureError, EagerGraphWarning, InferenceOnlyError

WIDTH = 16


@pytest.fixture(autouse=True)
def _fresh():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.mark.parametrize(
    # The second step shows whether sizes that change are dynamic; where none are, it would be a third graph.
    ("dynamic", "tokens"),
    [(None, 3), (True, 3), (False, 2)],
)
def test_a_padded_batch_of_a_llama_with_grouped_heads_generates(dynamic: bool | None, tokens: int) -> None:
    torch.manual_seed(0)
    model = tf.LlamaForCausalLM(tf.LlamaConfig(**{**zoo.GROUPED, "num_hidden_layers": 1})).eval()
    ids = zoo.tokens(2, 7)
    mask = torch.ones_like(ids)
    mask[0, :3] = 0
    options = {
        "attention_mask": mask,
        "max_new_tokens": tokens,
        "do_sample": False,
        "pad_token_id": 0,
        "eos_token_id": None,
        "disable_compile": True,
    }
    expected = model.generate(ids, **options)
    model.forward = torch.compile(model.forward, backend="sparseflow", dynamic=dynamic)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert torch.equal(model.generate(ids, **options), expected)


def test_mamba() -> None:
    config = tf.MambaConfig(
        hidden_size=32, num_hidden_layers=1, vocab_size=96, state_size=4, time_step_rank=4
    )
    model = tf.MambaForCausalLM(config).eval()
    ids = zoo.tokens(2, 3)  # its loop over tokens is unrolled
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = torch.compile(model, backend="sparseflow")(ids).logits
        torch.testing.assert_close(found, model(ids).logits)


class Two(nn.Module):
    """Two graphs, one of which the Torch dialect has no types for."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x)
        torch._dynamo.graph_break()
        return self.second(y).abs().to(torch.uint16).float()


@pytest.mark.parametrize("prune", [None, "magnitude"])
def test_a_graph_that_can_not_be_imported_runs_eagerly_and_says_so_once(prune: str | None) -> None:
    torch.manual_seed(0)
    model = Two().eval()
    options = {"prune": prune, "policy": "sparse"}
    compiled = torch.compile(model, backend="sparseflow", options=options)
    x = torch.randn(4, WIDTH)
    with torch.no_grad(), warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        found = [compiled(x) for _ in range(3)]
        if prune is None:
            torch.testing.assert_close(found[-1], model(x))
    told = [str(w.message) for w in said if w.category is EagerGraphWarning]
    assert len(told) == 1
    assert "a graph of Two runs eagerly" in told[0]
    assert ("unpruned" in told[0]) is (prune is not None)
    report = sparseflow.integrations.torch.report(model)
    assert len(report.model["eager_graphs"]) == 1
    rows = {layer.name: layer for layer in report.layers}
    assert rows["second"].decision == "dense"
    assert "its graph runs eagerly" in rows["second"].reason
    assert rows["first"].decision == ("dense" if prune is None else "sparse")


def test_the_callers_faults_are_raised() -> None:
    model = Two()
    with pytest.raises(InferenceOnlyError):
        torch.compile(model, backend="sparseflow")(torch.randn(4, WIDTH))
    with pytest.raises(ArgumentError):
        torch.compile(model.eval(), backend="sparseflow", options={"skip": ("nothing",)})(
            torch.randn(4, WIDTH)
        )
    assert not issubclass(ArgumentError, CaptureError)
