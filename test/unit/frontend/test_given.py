"""Lists and dicts that forward changes are refused by name; what holds tensors alone stays as it was."""

import pytest
import torch
from torch import nn

import sparseflow as sf
from sparseflow.errors import CaptureError


class Changing(nn.Module):
    def __init__(self, change):
        super().__init__()
        self.fc = nn.Linear(16, 16)
        self.change = change

    def forward(self, x, held=None, *, more=None):
        y = self.fc(x)
        self.change(more if held is None else held, y)
        return y


@pytest.mark.parametrize(
    ("held", "change"),
    [
        ([], lambda held, y: held.append(y)),
        ([1, 2], lambda held, y: held.pop()),
        ([torch.ones(2)], lambda held, y: held.__setitem__(0, y)),
        ({"a": torch.ones(2)}, lambda held, y: held.update(b=y)),
        ({"a": 1, "b": 2}, lambda held, y: held.pop("a")),
        (([],), lambda held, y: held[0].append(3)),
        ({"a": {"b": []}}, lambda held, y: held["a"]["b"].append(y)),
    ],
)
@pytest.mark.parametrize("how", ["args", "kwargs"])
def test_a_list_or_dict_that_forward_changes_is_refused_by_name(held, change, how):
    compiled = sf.compile(Changing(change).eval(), prune=None, progress=False)
    call = {"args": ((held,), {}), "kwargs": ((), {"more": held})}[how]
    before = repr(held)
    name = {"args": "held", "kwargs": "more"}[how]
    with pytest.raises(CaptureError, match=f"argument '{name}': forward changes a list or dict"):
        compiled(torch.randn(2, 16), *call[0], **call[1])
    assert repr(held) == before


def test_what_only_writes_the_tensors_in_it_runs():
    compiled = sf.compile(Changing(lambda held, y: held[0].add_(1)).eval(), prune=None, progress=False)
    held = [torch.zeros(2)]
    compiled(torch.randn(2, 16), held)
    assert held[0].tolist() == [1, 1]


def test_a_shape_is_returned_as_one():
    class Sized(nn.Module):
        def forward(self, x):
            return {"y": x * 2, "shape": x.shape, "same": (x.shape[:1], 3)}

    compiled = sf.compile(Sized().eval(), prune=None, progress=False)
    for shape in ((3, 4), (5, 7), (1, 4)):
        found = compiled(torch.randn(shape))
        assert type(found["shape"]) is type(found["same"][0]) is torch.Size
        assert (found["shape"], found["same"][0]) == (shape, shape[:1])
