"""The contextual MLP by gathering rows, in fp64, and how far a result may be from it.

Run as a program it compares the kernels of one instruction set, for test_parity.py.
"""

from __future__ import annotations

import itertools
import sys

import torch
import torch.nn.functional as F

from sparseflow.runtime.contextual import ContextualWeights, ops, portable

ACTIVATIONS = {
    "silu": F.silu,
    "gelu": F.gelu,
    "gelu_tanh": lambda v: F.gelu(v, approximate="tanh"),
    "relu": F.relu,
    "relu2": lambda v: F.relu(v) ** 2,
}
DTYPES = [torch.float32, torch.bfloat16, torch.float16]
ROUNDING = {torch.float32: 2**-24, torch.bfloat16: 2**-8, torch.float16: 2**-11}


def weights(intermediate, hidden, dtype=torch.float32, *, gated=True, biased=False, quantized=False, **more):
    """Random ones, scaled so that results are about 1."""

    def random(*shape):
        return (torch.randn(*shape) / max(shape[-1], 1) ** 0.5).to(dtype)

    names = ["gate_bias"] * gated + ["up_bias", "down_bias"]
    sizes = {"gate_bias": intermediate, "up_bias": intermediate, "down_bias": hidden}
    made = ContextualWeights.of(
        random(intermediate, hidden) if gated else None,
        random(intermediate, hidden),
        random(hidden, intermediate),
        **({name: random(sizes[name]) for name in names} if biased else {}),
        **more,
    )
    return made.quantized() if quantized else made


def wide(weight, scale):
    return weight.double() if scale is None else weight.double() * scale.double()[:, None]


def gathered(w, x, neurons):
    """The exact result ``[M, H]`` over those neurons, and the sum of the magnitudes that it is made of."""
    rows = x.reshape(-1, x.shape[-1]).double()
    at = torch.as_tensor(neurons, dtype=torch.long)

    def product(weight, scale, bias):
        matrix = wide(weight, scale)[at].T
        added = 0 if bias is None else bias.double()[at]
        return rows @ matrix + added, rows.abs() @ matrix.abs() + abs(added)

    hidden, size = product(w.up, w.up_scale, w.up_bias)
    act = ACTIVATIONS[w.activation]
    if w.gate is None:
        size = size * (1 + size) if w.activation == "relu2" else size
        hidden = act(hidden)
    else:
        gate, gate_size = product(w.gate, w.gate_scale, w.gate_bias)
        size = size * gate_size * (1 + gate_size)
        hidden = act(gate) * hidden
    down = wide(w.down_t, w.down_scale)[at]
    last = 0 if w.down_bias is None else w.down_bias.double()
    return hidden @ down + last, size @ down.abs() + abs(last)


def worst(y, w, x, neurons):
    """The largest error as a share of what rounding allows."""
    exact, size = gathered(w, x, neurons)
    error = (y.reshape(exact.shape).double() - exact).abs()
    bound = 1.01 * ROUNDING[x.dtype] * exact.abs() + 8 * 2**-24 * (size + 1)
    return (error / bound).max().item() if error.numel() else 0.0


def run(w, x, neurons):
    listed = torch.zeros(w.intermediate, dtype=torch.int32)
    listed[: len(neurons)] = torch.as_tensor(neurons, dtype=torch.int32)
    return w.run(x, listed, torch.tensor([len(neurons)], dtype=torch.int32))


def some(intermediate, share):
    """Random neurons, ascending."""
    return (torch.rand(intermediate) < share).nonzero().flatten().tolist()


def main():
    torch.manual_seed(0)
    failures = []
    shapes = [(1, 1), (5, 7), (34, 1029)]
    for dtype, quantized, (i, h), gated in itertools.product(DTYPES, (False, True), shapes, (True, False)):
        w = weights(i, h, dtype, gated=gated, biased=True, quantized=quantized, activation="gelu")
        for m in (1, 2, 3, 5, 33):
            x, neurons = torch.randn(m, h).to(dtype), some(i, 0.5)
            share = worst(run(w, x, neurons), w, x, neurons)
            if not share <= 1:
                failures.append(f"{dtype} int8={quantized} [{i}, {h}] gated={gated} M={m}: {share:.2f}")
    for n, k in itertools.product((1, 37, 1029), (0, 1, 20, 2000)):
        scores = torch.randn(2, n).round(decimals=1)  # with ties
        scores[0, n // 2] = float("nan")
        (mine, count), (plain, same) = (
            each.contextual_select(scores, "top_k", k) for each in (ops, portable)
        )
        if mine[:count].tolist() != plain[:same].tolist() or mine[count:].any():
            failures.append(f"top_k {k} of {n}")
    print("\n".join(failures))
    return len(failures) > 0


if __name__ == "__main__":
    sys.exit(main())
