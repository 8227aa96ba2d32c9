"""Which layers in fp8 hand their rows on in e4m3, and what inductor then gets of them."""

from operator import getitem

import pytest
import torch
from torch import fx
from torch._subclasses import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx

from sparseflow.errors import InferenceOnlyError
from sparseflow.execution.rows_between import keep_rows_quantized
from sparseflow.runtime import fp8
from sparseflow.runtime.dispatch import Policy
from sparseflow.runtime.fp8_between import linear_fp8_of_rows, linear_fp8_to_rows

WIDTH, HIDDEN = 128, 256
WIDE, SPARSE, SKINNY = "1:wide@2", "1:cusparselt@3", "1:skinny@5,65:wide@2"


def program(rows, policies=(WIDE, SPARSE), device="cuda", epilogue="gelu_tanh", **changes):
    """An MLP as dynamo gives it to a backend, its inputs fake, and a function that makes more of them."""
    graph = fx.Graph()
    with FakeTensorMode() as mode:

        def given(name, *sizes, dtype=torch.bfloat16):
            node = graph.placeholder(name)
            node.meta["example_value"] = torch.empty(sizes, dtype=dtype, device=device)
            return node

        def weight(name, n, k):
            parts = given(f"{name}_values", n, k // 2, dtype=fp8.E4M3), given(f"{name}_positions", n * k // 8)
            return (*parts, given(f"{name}_scales", n, dtype=torch.float32))

        def layer(x, parts, bias, residual, k, n, end, policy):
            args = (x, *parts, bias, residual, k, end, Policy.parse(policy).to_ints())
            node = graph.call_function(fp8.linear_fp8, args)
            node.meta["example_value"] = torch.empty(*rows, n, dtype=torch.bfloat16, device=device)
            return node

        width = HIDDEN // 2 if epilogue.endswith("_gated") else HIDDEN
        x, residual = given("x", *rows, WIDTH), given("residual", *rows, WIDTH)
        up, down = weight("up", HIDDEN, WIDTH), weight("down", WIDTH, width)
        bias, added = given("bias", HIDDEN), given("added", *rows, HIDDEN)
        h = layer(x, up, bias, added if "added" in changes else None, WIDTH, width, epilogue, policies[0])
        y = layer(h, down, None, residual, width, WIDTH, "none", policies[1])
        graph.output((y, h) if "read" in changes else (y,))
    return fx.GraphModule({}, graph), mode


def called(graph):
    return [node.target for node in graph.graph.nodes if node.op == "call_function"]


@pytest.mark.parametrize("policies", [(WIDE, SPARSE), (SPARSE, WIDE), ("1:dense", SPARSE), (SKINNY, SKINNY)])
@pytest.mark.parametrize("epilogue", ["none", "gelu_tanh", "silu_gated"])
def test_rows_go_from_product_to_product(policies, epilogue):
    graph, _ = program((2, 512), policies, epilogue=epilogue)
    assert keep_rows_quantized(graph) == 1
    assert called(graph) == [linear_fp8_to_rows, getitem, getitem, linear_fp8_of_rows]
    graph.graph.lint()


@pytest.mark.parametrize(
    "changed",
    [
        {"policies": (SKINNY, WIDE), "rows": (64,)},
        {"policies": (WIDE, SKINNY), "rows": (64,)},
        {"policies": ("", WIDE)},
        {"device": "cpu"},
        {"added": True},
        {"read": True},
    ],
    ids=str,
)
def test_layers_that_stay_apart(changed):
    """Of few rows, of any number, on a CPU, with a residual, or read by others."""
    graph, _ = program(**{"rows": (512,), **changed})
    assert keep_rows_quantized(graph) == 0
    assert called(graph) == [fp8.linear_fp8] * 2


@pytest.mark.parametrize(
    ("policy", "product"),
    [(WIDE, "linear_fp8_quantized"), (SPARSE, "product_fp8"), ("1:dense", "product_fp8")],
)
def test_tracing_leaves_the_first_layer_and_the_seconds_product(policy, product):
    graph, mode = program((2, 512), (WIDE, policy))
    keep_rows_quantized(graph)
    with mode:
        fakes = [node.meta["example_value"] for node in graph.graph.nodes if node.op == "placeholder"]
        traced = make_fx(graph)(*fakes)
    ours = [str(target) for target in called(traced) if "sparseflow" in str(target)]
    assert ours == ["sparseflow.linear_fp8_requantized.default", f"sparseflow.{product}.default"]
    ((result,),) = traced.graph.output_node().args
    assert (result.meta["val"].shape, result.meta["val"].dtype) == ((2, 512, WIDTH), torch.bfloat16)


def test_of_three_layers_the_last_two_are_joined():
    graph = fx.Graph()
    with FakeTensorMode():
        x = graph.placeholder("x")
        parts = [graph.placeholder(name) for name in ("values", "positions", "scales")]
        x.meta["example_value"] = torch.empty(512, WIDTH, dtype=torch.bfloat16, device="cuda")
        y = x
        for _ in range(3):
            y = graph.call_function(fp8.linear_fp8, (y, *parts, None, None, WIDTH, "relu", [1, fp8.WIDE]))
            y.meta = dict(x.meta)
    graph.output((y,))
    module = fx.GraphModule({}, graph)
    assert keep_rows_quantized(module) == 1
    assert called(module) == [fp8.linear_fp8, linear_fp8_to_rows, getitem, getitem, linear_fp8_of_rows]


def test_gradients_are_refused():
    x = torch.ones(2, WIDTH, requires_grad=True)
    rest = (torch.ones(4, WIDTH), torch.ones(1), torch.ones(4), None)
    with pytest.raises(InferenceOnlyError, match="an input requires grad"):
        linear_fp8_to_rows(x, *rest, WIDTH, "none", [1, fp8.WIDE])
