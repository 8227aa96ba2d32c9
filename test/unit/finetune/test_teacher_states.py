"""The teacher's states of rows that were read before: the same training, to the bit."""

from __future__ import annotations

import copy

import pytest
import torch
import zoo
from torch import nn

import sparseflow as sf
from sparseflow.finetune import teacher_states
from sparseflow.finetune.objective import Objective
from sparseflow.finetune.recovery_text import Batches, Rows
from sparseflow.finetune.teacher_states import TeacherStates
from sparseflow.integrations.transformers.last_states import from_last_states, last_states, same_logits

KL = Objective(kl=1.0)
ROWS = [
    torch.randint(3, zoo.VOCABULARY, (16,), generator=torch.Generator().manual_seed(i)) for i in range(12)
]


def model(name="llama"):
    torch.manual_seed(0)
    return zoo.sharp(zoo.text_model(name))


def recovered(dense, share, monkeypatch, **more):
    """Recover a pruned model with a share of the memory for states; return report and weights."""
    monkeypatch.setattr(teacher_states, "SHARE", share)
    pruned = copy.deepcopy(dense)
    sf.prune(pruned)
    options = {"text_share": 1.0, "steps": 9, "length": 16, "batch": 4, "lr": 3e-3, "progress": False}
    report = sf.recover(pruned, dense, 5.0, torch.cat(ROWS), **options | more)
    return report, [p.detach().clone() for p in pruned.parameters()]


@pytest.mark.parametrize("name", ["llama", "gpt2", "gemma3"])
@pytest.mark.parametrize("micro", [4, 2])
def test_a_recovery_is_the_same_without_running_the_teacher_again(name, micro, monkeypatch):
    dense = model(name)
    calls = []
    hook = dense.get_input_embeddings().register_forward_hook(lambda *_: calls.append(1))
    kept, weights = recovered(dense, 4, monkeypatch, micro=micro)
    often = len(calls)
    plain, others = recovered(dense, 10**12, monkeypatch, micro=micro)
    hook.remove()
    assert all(torch.equal(a, b) for a, b in zip(weights, others, strict=True))
    assert kept.looks[-1].loss == plain.looks[-1].loss
    assert "read before" not in str(kept)
    assert "more than 1/" in plain.notes[-1]
    assert often < len(calls) - often
    assert "forward" not in vars(dense.base_model)


def test_states_are_computed_once_and_are_those_of_the_rows():
    dense = model()
    states = TeacherStates.of(dense, Rows(ROWS, 1), KL, 1 << 30)
    assert isinstance(states, TeacherStates)
    runs = []
    dense.get_input_embeddings().register_forward_hook(lambda *_: runs.append(1))
    for places, new in (([3, 0], 1), ([0, 5], 1), ([5, 3, 0], 0), ([0], 0)):
        ids = torch.stack([ROWS[1 + place] for place in places])
        runs.clear()
        found = states.read(places, ids)
        assert len(runs) == new
        torch.testing.assert_close(found, last_states(dense, ids))


class Counting(nn.Module):
    """A language model whose logits are made of more than its last states."""

    def __init__(self, inner):
        super().__init__()
        self.base_model, self.whole, self.calls = inner.base_model, inner, 0

    def forward(self, input_ids):
        self.calls += 1
        output = self.whole(input_ids=input_ids)
        output.logits = output.logits + self.calls
        return output


def test_there_is_no_memory_where_it_would_not_serve():
    dense = model()
    assert TeacherStates.of(dense, Rows(ROWS, 1), None, 1 << 30) == ""
    assert TeacherStates.of(dense, Rows(ROWS, 1), Objective(kl=1.0, hidden=0.1), 1 << 30) == ""
    assert TeacherStates.of(dense, Rows([*ROWS, ROWS[0][:7]], 1), KL, 1 << 30) == ""
    assert TeacherStates.of(dense, Batches([((), {"input_ids": ROWS[0][None]})] * 3, 1), KL, 1 << 30) == ""
    assert TeacherStates.of(nn.Linear(2, 2), Rows(ROWS, 1), KL, 1 << 30) == ""
    assert "fill" in str(TeacherStates.of(dense, Rows(ROWS, 1), KL, 1000))
    assert "aren't made of" in str(TeacherStates.of(Counting(dense), Rows(ROWS, 1), KL, 1 << 30))


def test_states_that_are_put_back_give_the_logits_and_leave_the_model_as_it_was():
    dense = model("gemma3")
    ids = torch.stack(ROWS[:2])
    assert same_logits(dense, ids)
    with torch.no_grad():
        expected, states = dense(input_ids=ids).logits, last_states(dense, ids)
        with from_last_states(dense, states.flip(0)):
            torch.testing.assert_close(dense(input_ids=ids).logits, expected.flip(0))
    assert "forward" not in vars(dense.base_model)
    with pytest.raises(ZeroDivisionError), from_last_states(dense, torch.zeros(1)):
        raise ZeroDivisionError
    assert "forward" not in vars(dense.base_model)
