"""The lowered graph under torch.compile: one graph, no breaks, other sizes."""

from __future__ import annotations

import pytest
import torch
import transformers as tf
from torch import nn


@pytest.fixture(autouse=True)
def fresh_dynamo():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def test_inductor_takes_the_graph_whole(build_program):
    model = nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 8)).eval()
    graph = build_program(model, torch.randn(2, 8)).graph
    compiled = torch.compile(graph, fullgraph=True, dynamic=True)
    for rows in (2, 5):
        x = torch.randn(rows, 8)
        with torch.no_grad():
            torch.testing.assert_close(compiled(x)[0], model(x))


def test_a_decoder_is_one_graph(build_program):
    config = tf.LlamaConfig(
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=1,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=96,
    )
    model = tf.LlamaForCausalLM(config).eval()
    built = build_program(model, torch.randint(0, 96, (2, 5)))
    compiled = torch.compile(built.graph, fullgraph=True, dynamic=True, backend="aot_eager")
    for size in ((2, 5), (3, 7)):
        ids = torch.randint(0, 96, size)
        with torch.no_grad():
            found, expected = compiled(ids), built.graph(ids)
        torch.testing.assert_close(found, expected)
