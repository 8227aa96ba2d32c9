"""An equal version says that a dict has its entries still, however it might have been written."""

from __future__ import annotations

from collections import OrderedDict
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from sparseflow.frontend.state.later import Held
from sparseflow.runtime.calling import dict_versions as module
from sparseflow.runtime.calling import tensor_layouts
from sparseflow.runtime.calling.dict_versions import dict_versions
from sparseflow.runtime.calling.held_contents import Contents

KEYS = ["a", "b", "c"]
WRITES = {
    "set": lambda d, k, v: d.__setitem__(k, v),
    "update": lambda d, k, v: d.update({k: v}),
    "merge": lambda d, k, v: d.__ior__({k: v}),
    "default": lambda d, k, v: d.setdefault(k, v),
    "pop": lambda d, k, v: d.pop(k, None),
    "delete": lambda d, k, v: d.__delitem__(k) if k in d else None,
    "last": lambda d, k, v: d.popitem() if d else None,
    "clear": lambda d, k, v: d.clear(),
    "read": lambda d, k, v: d.get(k),
    "copy": lambda d, k, v: dict(d),
}


@given(
    st.sampled_from([dict, OrderedDict]),
    st.lists(
        st.tuples(st.sampled_from(sorted(WRITES)), st.sampled_from(KEYS), st.integers(0, 3)), max_size=30
    ),
)
def test_equal_versions_mean_the_same_entries(kind, steps):
    table, values = kind(), [object() for _ in range(4)]
    for name, key, value in steps:
        before, entries = dict_versions([table]), list(dict.items(table))
        WRITES[name](table, key, values[value])
        if dict_versions([table]) == before:
            now = list(dict.items(table))
            assert len(now) == len(entries)
            assert all(a is b for pair in zip(now, entries, strict=True) for a, b in zip(*pair, strict=True))


def test_reading_leaves_versions_alone():
    tables = [{"a": 1}, {}, vars(nn.Linear(2, 2))]
    before = dict_versions(tables)
    assert [len(list(table.items())) for table in tables][:2] == [1, 0]
    assert dict_versions(tables) == before


def _write_often(target, values):
    """Python specialises this write for the class of the target, past the dict's own functions."""
    for value in values:
        target.setting = value


@pytest.mark.parametrize("make", [nn.Linear, lambda *_: SimpleNamespace(), lambda *_: _Plain()])
@pytest.mark.parametrize("first", [True, False])
def test_an_attribute_written_in_a_hot_loop_is_seen(make, first):
    target = make(2, 2)
    target.setting = 0
    if first:
        _write_often(target, range(1000))
    table = vars(target)
    for value in range(1000, 1200):
        before = dict_versions([table])
        _write_often(target, [value])
        assert dict_versions([table]) != before
        assert table["setting"] == value


class _Plain:
    pass


@pytest.fixture(params=["torch", "none"])
def guards(request, monkeypatch):
    """With what torch's guards are made of, and as if this torch had none."""
    if request.param == "none":
        monkeypatch.setattr(module, "_version", lambda value: object())
        monkeypatch.setattr(tensor_layouts, "_Guards", None)


def _replace(model):
    model.inner[0].weight = nn.Parameter(model.inner[0].weight.detach().clone())


def _write_setting(model):
    model.config.factor = 3


def _write_equal_setting(model):
    model.config.flag = 1  # equal to True, but not it


def _write_list(model):
    model.config.sizes.append(3)


def _add_module(model):
    model.inner.append(nn.Linear(4, 4))


def _drop_bias(model):
    model.inner[1].bias = None


def _write_in_place(model):
    with torch.no_grad():
        model.inner[0].weight.add_(1)


def _move(model):
    model.inner[0].weight.data = model.inner[0].weight.data.clone()


def _hook(model):
    model.inner[0].register_forward_hook(lambda *_: None)


CHANGES = [
    _replace, _write_setting, _write_equal_setting, _write_list, _add_module, _drop_bias, _write_in_place,
    _move, _hook,
]  # fmt: skip


class _Configured(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.ModuleList([nn.Linear(4, 4), nn.Linear(4, 4)])
        self.config = _Plain()
        self.config.factor, self.config.flag, self.config.sizes = 2, True, [1, 2]


@pytest.mark.usefixtures("guards")
@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("looks", [0, 1, 3])
def test_a_change_of_a_model_is_seen_after_any_number_of_looks(change, looks):
    model = _Configured()
    held = Held(model)
    assert all(held.is_as_it_was() for _ in range(looks))
    change(model)
    assert not held.is_as_it_was()
    assert not held.is_as_it_was()


@pytest.mark.usefixtures("guards")
def test_a_value_written_back_is_as_it_was():
    model = _Configured()
    held = Held(model)
    weight, config = model.inner[0].weight, model.config
    for _ in range(3):
        assert held.is_as_it_was()
        model.inner[0].weight, model.config.factor = weight, config.factor
        model.counter = 1  # read by no program: it wasn't there
    assert held.is_as_it_was()


class _Cache:
    def __init__(self):
        self.layers = [_Plain(), _Plain()]
        for layer in self.layers:
            layer.keys, layer.seen = torch.zeros(2, 3), 0


def _exchange(cache):
    cache.layers[0].keys = cache.layers[0].keys.clone()


def _count(cache):
    cache.layers[1].seen = 1


def _another_layer(cache):
    cache.layers.append(_Plain())


def _other_layer(cache):
    cache.layers[1] = cache.layers[0]


def _attribute(cache):
    cache.more = 1


def _less(cache):
    del cache.layers[0].seen


def _turn(cache):
    cache.layers[0].keys.t_()


def _elsewhere(cache):
    cache.layers[0].keys.data = torch.zeros(2, 3)


def _other_dtype(cache):
    cache.layers[0].keys.data = cache.layers[0].keys.data.view(torch.int32)


def _ask_gradients(cache):
    cache.layers[0].keys.requires_grad_()


@pytest.mark.parametrize("mode", [torch.no_grad, torch.enable_grad, torch.inference_mode])
@pytest.mark.usefixtures("guards")
@pytest.mark.parametrize(
    "change",
    [
        _exchange, _count, _another_layer, _other_layer, _attribute, _less, _turn, _elsewhere, _other_dtype,
        _ask_gradients,
    ],
)  # fmt: skip
@pytest.mark.parametrize("looks", [0, 1, 3])
def test_a_change_of_what_an_object_holds_is_seen(change, looks, mode):
    cache = _Cache()
    contents = Contents([cache])
    with mode():
        assert all(contents.are_as_they_were() for _ in range(looks))
        change(cache)
        assert not contents.are_as_they_were()
        assert not contents.are_as_they_were()
