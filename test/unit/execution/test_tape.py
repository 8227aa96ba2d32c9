"""Steps on tapes: the tokens of eager models, and what can't be recorded."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import CodeType
from typing import Any

import pytest
import torch
import zoo
from torch import Tensor

import sparseflow as sf
from sparseflow.execution.decoding import loop
from sparseflow.execution.decoding.tape import Function, Tape, watched
from sparseflow.runtime.contextual.column import column_linear
from sparseflow.runtime.ops import LINEAR_BLOCKS, dense_rows, linear

OPTIONS: dict[str, Any] = {"max_new_tokens": 14, "pad_token_id": 0, "eos_token_id": None, "do_sample": False}
_OPS: Any = torch.ops.sparseflow


@pytest.fixture
def pays_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "PAYS_AFTER", 1)


def taped(call: Callable[[], Tensor]) -> tuple[Tensor, Tape | str]:
    """Record a call; return its result, and the tape or why it can't be played."""
    tape = Tape(_OPS.tape_begin())
    try:
        result = call()
    finally:
        reason = _OPS.tape_end(tape.address)
    return result, reason or tape


def calls_of(dtype: torch.dtype) -> Iterator[tuple[str, Callable[[Tensor], Tensor]]]:
    """The operators over weights of odd sizes, for x [1, 36]."""
    n, k = 22, 36
    weight = (torch.randn(n, k) / k**0.5).to(dtype)
    residual, bias = torch.randn(1, n).to(dtype), torch.randn(n).to(dtype)
    packed = sf.compress_2_4(sf.prune_24(weight)).tensors
    columns = weight.t().contiguous()
    yield "plain", lambda x: linear(x, *packed, None, None, k, "none", [])
    yield "residual", lambda x: linear(x, *packed, bias, residual, k, "gelu", [])
    yield "gated", lambda x: linear(x, *packed, None, None, k, "silu_gated", [])
    for block, op in LINEAR_BLOCKS.items():
        parts = _OPS.pack_blocks(_OPS.prune_blocks(weight, block), block)
        yield f"blocks of {block}", lambda x, op=op, parts=parts: op(x, *parts, bias, None, k, "none", [])
    yield "dense", lambda x: dense_rows(x, weight, bias)
    yield "columns", lambda x: column_linear(x, columns, 0.3, bias, residual)
    yield "columns, gated", lambda x: column_linear(x, columns, 0.3, None, None, None, 8, "silu_gated")
    yield "columns, gelu", lambda x: column_linear(x, columns, 0.3, None, residual, None, 8, "gelu")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_played_tape_does_what_the_operators_do(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    for name, call in calls_of(dtype):
        x = torch.randn(1, 36).to(dtype)
        y, tape = taped(lambda call=call, x=x: call(x))
        assert isinstance(tape, Tape), name
        for other in (torch.randn(1, 36), torch.full((1, 36), float("nan")), torch.randn(1, 36)):
            x.copy_(other)
            y.fill_(7)
            tape.play()
            assert torch.equal(y.nan_to_num(99.0), call(x).nan_to_num(99.0)), name


def test_attention_reads_its_position_when_the_tape_is_played() -> None:
    torch.manual_seed(0)
    q, (k, v) = torch.randn(1, 6, 1, 20), torch.randn(2, 1, 2, 300, 20)
    position, keep = torch.tensor([4]), torch.ones(1, 300, dtype=torch.bool)
    out, tape = taped(lambda: _OPS.decode_attention(q, k, v, position, keep, 0.2))
    assert isinstance(tape, Tape)
    for at in (5, 200, 299, 0):
        position.fill_(at)
        keep[0, at // 2] = False
        tape.play()
        assert torch.equal(out, _OPS.decode_attention(q, k, v, position, keep, 0.2))


def test_what_runs_otherwise_spoils_the_tape_but_not_the_call() -> None:
    torch.manual_seed(0)
    weight = sf.prune_24(torch.randn(8, 16))
    packed, columns = sf.compress_2_4(weight).tensors, weight.t().contiguous()
    strided = torch.randn(16, 2).t()[:, None]
    dense = [0, 0]  # from one row on, torch's product
    found = [
        taped(lambda: linear(torch.ones(1, 16), *packed, None, None, 16, "none", dense)),
        taped(lambda: linear(strided, *packed, None, None, 16, "none", [])),
        taped(lambda: column_linear(torch.ones(1, 5, 16), columns, 0.1)),
        taped(lambda: column_linear(strided, columns, 0.1)),
        taped(lambda: dense_rows(strided, weight, None)),
    ]
    assert [reason for _, reason in found] == [
        "a 2:4 layer runs by another kernel than ours",
        "an input of a 2:4 layer doesn't lie in one piece",
        "a layer that leaves inputs out reads all of them",
        "an input of a layer that leaves inputs out doesn't lie in one piece",
        "an input of a dense layer doesn't lie in one piece",
    ]
    for i in (1, 4):
        assert torch.allclose(found[i][0], strided @ weight.t(), atol=1e-5)


def test_a_thread_records_one_tape_at_a_time() -> None:
    with pytest.raises(RuntimeError, match="records no tape"):
        _OPS.tape_kernel(0, [])
    address = _OPS.tape_begin()
    with pytest.raises(RuntimeError, match="records a tape already"):
        _OPS.tape_begin()
    assert _OPS.tape_end(address) == ""
    _OPS.tape_play(address)
    _OPS.tape_free(address)


def test_a_function_that_uses_anything_else_is_not_recorded() -> None:
    def function(source: str, *args: object) -> Function:
        module = compile(f"def call(args):\n{source}", "made", "exec")
        code = next(constant for constant in module.co_consts if isinstance(constant, CodeType))
        return Function(code, {"cpp_fused_add": len}, list(args))

    known = torch.zeros(3)
    assert function(" args.clear()\n return ()", known, known[1:]).why_not([known]) == ""
    assert function(" return extern_kernels.mm(args)").why_not([]) == "it uses extern_kernels, mm"
    assert function(" return (lambda: 1)()").why_not([]) == "it uses a function of its own"
    assert "no function of a library" in function(" cpp_fused_add(args)").why_not([])
    for arg in (torch.zeros(3), 3):
        assert "made anew" in function(" return ()", arg).why_not([known])
    assert watched(lambda: None) == "inductor made 0 functions of it"


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_a_step_on_tape_gives_the_tokens_of_the_model(pays_at_once: None, name: str) -> None:
    torch.manual_seed(0)
    model = zoo.text_model(name, 1)
    compiled = sf.compile(model, prune="magnitude", policy="sparse")
    for length in (5, 9, 3):
        ids = zoo.tokens(1, length)
        call = {"input_ids": ids, "attention_mask": torch.ones_like(ids), **OPTIONS}
        found = compiled.generate(**call)
        assert torch.equal(found, zoo.pruned_as(model, compiled.report).generate(**call))
        step = compiled.generator.again(length)
        assert step._tape is not None, step.no_tape
    assert compiled.report.model["generate"] == {"step": "inductor", "loop": "sparseflow"}


def test_thresholds_and_padding_are_read_from_the_tape(pays_at_once: None) -> None:
    torch.manual_seed(0)
    model = zoo.text_model("llama", 1)
    found = sf.calibrate_activations(model, zoo.tokens(2, 64), rate=0.4)
    options = {"contextual": found, "format": None, "policy": "sparse"}
    compiled, plain = sf.compile(model, **options), sf.compile(model, inner="eager", **options)
    for length in (9, 7):
        ids = zoo.tokens(1, length)
        mask = torch.ones_like(ids)
        mask[0, :3] = 0
        call = {"input_ids": ids, "attention_mask": mask, **OPTIONS}
        assert torch.equal(compiled.generate(**call), plain.generate(**call))
        step = compiled.generator.again(length)
        assert step._tape is not None, step.no_tape


def test_a_batch_whose_head_is_torchs_product_has_no_tape(pays_at_once: None) -> None:
    torch.manual_seed(0)
    model = zoo.text_model("llama", 1)
    compiled = sf.compile(model, policy="sparse")
    ids = zoo.tokens(2, 5)
    call = {"input_ids": ids, "attention_mask": torch.ones_like(ids), **OPTIONS}
    assert torch.equal(compiled.generate(**call), model.generate(**call))
    assert compiled.report.model["generate"]["tape"] == "none: it uses extern_kernels, mm"


def test_a_step_that_draws_says_why_it_has_no_tape(pays_at_once: None) -> None:
    torch.manual_seed(0)
    model = zoo.text_model("llama", 1)
    compiled = sf.compile(model, policy="sparse")
    ids = zoo.tokens(1, 5)
    call = {"input_ids": ids, "attention_mask": torch.ones_like(ids), **OPTIONS, "do_sample": True}
    torch.manual_seed(3)
    found = compiled.generate(**call)
    torch.manual_seed(3)
    assert torch.equal(found, model.generate(**call))
    assert "exponential" in compiled.report.model["generate"]["tape"]
