"""generate's own loop on a GPU: one CUDA graph a step, the tokens of transformers."""

from __future__ import annotations

import pytest
import torch
import zoo

import sparseflow as sf

OPTIONS = {"max_new_tokens": 40, "pad_token_id": 0, "eos_token_id": None, "do_sample": False}
ENDS = list(range(0, 96, 4))


@pytest.fixture(scope="module", params=["llama", "gemma3"])
def compiled(request: pytest.FixtureRequest) -> sf.CompiledModel:
    torch.manual_seed(0)
    model = zoo.text_model(request.param).cuda()
    sf.prune(model)  # fp32 layers stay dense on a GPU, whether pruned or not
    return sf.compile(model, policy="sparse", inner="eager")


def prompt(batch: int, length: int) -> dict[str, torch.Tensor]:
    mask = torch.ones(batch, length, dtype=torch.long, device="cuda")
    mask[0, : length // 2] = 0
    return {"input_ids": zoo.tokens(batch, length).cuda(), "attention_mask": mask}


def test_steps_are_replayed_and_give_the_tokens_of_transformers(compiled: sf.CompiledModel) -> None:
    for length in (9, 5):
        call = {**prompt(3, length), **OPTIONS}
        found = compiled.generate(**call)
        expected = compiled.model_behind.generate(**call)
        assert torch.equal(found, expected)
        assert compiled.report.model["generate"]["loop"] == "sparseflow"
    step = compiled.generator.again(5)
    assert step._graph is not None, step.refusal


def test_what_is_decoded_after_the_end_is_cut_off(compiled: sf.CompiledModel) -> None:
    for _ in range(4):
        call = {**prompt(3, 6), **OPTIONS, "eos_token_id": ENDS}
        found = compiled.generate(**call)[:, 6:].cpu()
        ended = torch.isin(found, torch.tensor(ENDS))
        lengths = torch.where(ended.any(1), ended.int().argmax(1) + 1, found.shape[1])
        assert found.shape[1] == int(lengths.max())
        after = torch.arange(found.shape[1]) >= lengths[:, None]
        assert not found[after].any()


def test_draws_differ_from_replay_to_replay(compiled: sf.CompiledModel) -> None:
    call = {**prompt(2, 6), **OPTIONS, "do_sample": True, "top_k": 0}
    torch.manual_seed(1)
    first = compiled.generate(**call)
    second = compiled.generate(**call)
    torch.manual_seed(1)
    assert not torch.equal(first, second)
    assert len(set(first[0, 6:].tolist())) > 5


def test_a_streamer_gets_no_token_after_the_end(compiled: sf.CompiledModel) -> None:
    class Kept:
        def __init__(self) -> None:
            self.values: list[torch.Tensor] = []

        def put(self, value: torch.Tensor) -> None:
            self.values.append(value.reshape(-1).cpu())

        def end(self) -> None:
            self.values.append(torch.empty(0, dtype=torch.int64))

    kept = Kept()
    call = {**prompt(1, 6), **OPTIONS, "eos_token_id": ENDS, "streamer": kept}
    call["attention_mask"] = torch.ones_like(call["attention_mask"])
    tokens = compiled.generate(**call)
    assert torch.equal(torch.cat(kept.values), tokens[0].cpu())
