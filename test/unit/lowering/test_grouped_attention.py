"""Which attention reads grouped heads where they are, on which type of device."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch_mlir import ir

from sparseflow import dialect
from sparseflow.frontend import capture, import_program
from sparseflow.lowering import DenseWeights, to_fx

SDPA = torch.ops.aten.scaled_dot_product_attention.default
HEADS, GROUP, SIZE = 2, 3, 8


class Repeated(nn.Module):
    """Attention over key and value heads that are copied for each query head of their group."""

    def __init__(self, causal: bool) -> None:
        super().__init__()
        self.causal = causal

    def forward(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: torch.Tensor | None = None):
        q = heads_of(q, HEADS * GROUP)
        k, v = (repeated(heads_of(tensor, HEADS)) for tensor in (k, v))
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=self.causal)


def heads_of(tensor: torch.Tensor, heads: int) -> torch.Tensor:
    return tensor.view(*tensor.shape[:2], heads, SIZE).transpose(1, 2)


def repeated(tensor: torch.Tensor) -> torch.Tensor:
    batch, _, keys, _ = tensor.shape
    copies = tensor[:, :, None].expand(batch, HEADS, GROUP, keys, SIZE)
    return copies.reshape(batch, HEADS * GROUP, keys, SIZE)


def attention(model: nn.Module, call: tuple[torch.Tensor, ...], device_type: str):
    """The lowered graph and its attention."""
    context = ir.Context()
    dialect.load(context)
    imported = import_program(capture(model.eval(), call, {}), context)
    graph = to_fx(imported.module, DenseWeights(imported.weights), device_type)
    (node,) = (node for node in graph.graph.nodes if node.target is SDPA)
    return graph, node


def inputs(queries: int, keys: int, dtype: torch.dtype, mask: str):
    torch.manual_seed(0)
    q = torch.randn(2, queries, HEADS * GROUP * SIZE, dtype=dtype)
    k, v = (torch.randn(2, keys, HEADS * SIZE, dtype=dtype) for _ in range(2))
    if not mask:
        return q, k, v
    heads = HEADS * GROUP if mask == "each head" else 1
    seen = torch.rand(2, heads, queries, keys) > 0.4
    seen[..., 0] = True
    return q, k, v, seen


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize(
    ("queries", "mask", "causal"),
    [
        (7, "", True),
        (7, "", False),
        (5, "all heads", False),
        (5, "each head", False),
        (1, "each head", False),
    ],
)
def test_a_cpu_copies_no_heads(dtype, queries, mask, causal):
    call = inputs(queries, 7, dtype, mask)
    model = Repeated(causal)
    graph, node = attention(model, call, "cpu")
    assert node.kwargs["enable_gqa"]
    assert not any(node.target is torch.ops.aten.expand.default for node in graph.graph.nodes)
    fresh = inputs(queries, 7, dtype, mask)
    torch.testing.assert_close(graph(*fresh)[0], model(*fresh))


def test_one_query_reads_the_heads_of_its_group_once():
    call = inputs(1, 7, torch.float32, "all heads")
    model = Repeated(causal=False)
    graph, node = attention(model, call, "cpu")
    assert "enable_gqa" not in node.kwargs
    torch.testing.assert_close(graph(*call)[0], model(*call))


@pytest.mark.parametrize(
    ("dtype", "mask", "grouped"),
    [(torch.bfloat16, "", True), (torch.float32, "", False), (torch.bfloat16, "all heads", False)],
)
def test_a_gpu_has_no_kernel_of_grouped_heads_in_fp32_or_with_a_mask(dtype, mask, grouped):
    _, node = attention(Repeated(causal=False), inputs(5, 7, dtype, mask), "cuda")
    assert node.kwargs.get("enable_gqa", False) is grouped
