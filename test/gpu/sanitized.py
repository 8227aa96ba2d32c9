"""A small set of products for compute-sanitizer (test_sanitizer.py); prints "done" at the end.

With the argument ``own`` no kernel of cuSPARSELt or cuBLAS runs: their races are not ours to judge.
"""

import sys

import torch
from gpu_weights import error, inputs, linear, packed, pruned, reference

from sparseflow.runtime import gpu, ops
from sparseflow.runtime.kernels import Choice

THROUGH_MEMORY = 64  # added to a variant (csrc/cuda/skinny/skinny.h)
SHAPES = ((128, 256), (203, 452), (64, 64))
OWN = sys.argv[1:] == ["own"]
LIBRARIES = () if OWN else ("cusparselt", "dense")
ROWS = (9,) if OWN else (1, 9, 33)  # racecheck is slow


def run(shape, dtype):
    n, k = shape
    weight = pruned(n, k, dtype)
    device, bias = packed(weight), inputs(1, n, dtype)[0]
    assert torch.equal(device.dense(), weight)
    device.portable_positions()
    variants = torch.ops.sparseflow.skinny_variants(n, k, 1)
    for m in ROWS:
        x, residual = inputs(m, k, dtype), inputs(m, n, dtype)
        on_cpu = (t.cpu() for t in (x, weight, bias, residual))
        expected = reference(*on_cpu, "silu").cuda()
        for variant in (*range(variants), THROUGH_MEMORY + 1, THROUGH_MEMORY + 3):
            y = ops.skinny_linear(x, device.values, device.positions, bias, residual, k, "silu", variant)
            assert error(y, expected) < 1e-2, (shape, m, variant)
        if n % 2 == 0:
            gate, up = reference(x.cpu(), weight.cpu(), bias.cpu()).chunk(2, -1)
            y = linear(x, device, bias, epilogue="silu_gated", policy=[1, Choice("skinny").code])
            assert error(y, (torch.nn.functional.silu(gate) * up).cuda()) < 1e-2, (shape, m)
        for kernel in LIBRARIES:
            policy = [1, Choice(kernel).code]
            gpu.prepare(device, [m], policy, bias=True, residual=True, epilogue="silu")
            assert error(linear(x, device, bias, residual, "silu", policy), expected) < 1e-2


gpu.require()
for shape in SHAPES[1:2] if OWN else SHAPES:
    run(shape, torch.bfloat16)
if not OWN:
    run(SHAPES[1], torch.float16)
torch.cuda.synchronize()
print("done")
