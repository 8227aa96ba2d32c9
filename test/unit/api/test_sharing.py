"""Which arguments are one tensor, and which share memory: as in eager, or refused."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
import transformers as tf
import zoo
from torch import Tensor, nn

import sparseflow as sf
from sparseflow.errors import ArgumentError, CaptureError

WIDTH = 16


def row(*sizes: int) -> Tensor:
    return torch.randn(*(sizes or (3,)), WIDTH)


class Asking(nn.Module):
    """Tells by `is` what it was given."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.fc(x) if x is y else self.fc(x) - 2 * y


class Writing(nn.Module):
    """Writes its first argument, then reads both."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(WIDTH, WIDTH)
        self.register_buffer("total", torch.zeros(3, WIDTH))

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        x.add_(1)
        self.total += x.mean()
        return self.fc(y) + x


def test_attention_of_one_tensor_is_not_that_of_three() -> None:
    torch.manual_seed(0)
    model = nn.MultiheadAttention(48, 3, batch_first=True).eval()
    compiled = sf.compile(model)
    x, k, v = (torch.randn(2, 5, 48) for _ in range(3))
    with torch.no_grad():
        for call in ((x, x, x), (x, k, v), (x, k, k), (k, k, v), (v, v, v)):
            torch.testing.assert_close(compiled(*call), model(*call))


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_a_model_that_asks_for_identity_gets_it(order: tuple[int, int], tmp_path) -> None:
    model = Asking().eval()
    compiled = sf.compile(model)
    x = row()
    calls = [(x, x), (x, x.clone())]
    with torch.no_grad():
        for place in order:
            torch.testing.assert_close(compiled(*calls[place]), model(*calls[place]))
        compiled.save(tmp_path / "artifact")
        loaded = sf.load(tmp_path / "artifact")
        for call in calls:
            torch.testing.assert_close(loaded(*call), model(*call))


def test_a_loaded_program_for_one_tensor_refuses_two(tmp_path) -> None:
    model = Asking().eval()
    x = row()
    compiled = sf.compile(model, (x, x))
    compiled.save(tmp_path / "artifact")
    loaded = sf.load(tmp_path / "artifact")
    with pytest.raises(sf.SparseFlowError, match="y is a tensor of its own, not the same tensor as x"):
        loaded(x, row())


def test_ids_as_their_own_mask() -> None:
    model = zoo.text_model("bert")
    compiled = sf.compile(model)
    ids = torch.ones(2, 7, dtype=torch.long)
    mask = torch.ones_like(ids)
    mask[0, 4:] = 0
    with torch.no_grad():
        for call in ((ids, ids), (zoo.tokens(2, 7), mask), (ids, mask)):
            found, expected = (m(input_ids=call[0], attention_mask=call[1]) for m in (compiled, model))
            torch.testing.assert_close(found.last_hidden_state, expected.last_hidden_state)


SHARING: dict[str, Callable[[], tuple[Tensor, Tensor]]] = {
    "apart": lambda: (row(), row()),
    "one": lambda: (lambda x: (x, x))(row()),
    "alias": lambda: (lambda x: (x, x.detach()))(row()),
    "view": lambda: (lambda x: (x, x.view(3, WIDTH)))(row()),
    "halves": lambda: (lambda x: (x[:3], x[3:]))(row(6)),
    "interleaved": lambda: (lambda x: (x[::2], x[1::2]))(row(6)),
    "overlapping": lambda: (lambda x: (x[:3], x[1:]))(row(4)),
    "columns": lambda: (lambda x: (x[:, :WIDTH], x[:, WIDTH:]))(torch.randn(3, 2 * WIDTH)),
}


REFUSED = ("alias", "view", "overlapping")


@pytest.mark.parametrize("captured", SHARING)
def test_what_is_written_is_seen_wherever_it_is_read_or_refused(captured: str) -> None:
    torch.manual_seed(0)
    model = Writing().eval()
    compiled = sf.compile(copy.deepcopy(model))
    with torch.no_grad():
        for name in (captured, *SHARING):
            torch.manual_seed(1)
            theirs = SHARING[name]()
            torch.manual_seed(1)
            ours = SHARING[name]()
            before = [tensor.clone() for tensor in ours]
            if name in REFUSED:
                with pytest.raises(ArgumentError, match="overlaps"):
                    compiled(*ours)
                torch.testing.assert_close(list(ours), before)  # refused before anything was written
                continue
            torch.testing.assert_close(compiled(*ours), model(*theirs))
            torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(compiled._model.total, model.total)


class Reading(Writing):
    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.fc(x) + y


@pytest.mark.parametrize("captured", SHARING)
def test_where_nothing_is_written_all_calls_are_served(captured: str) -> None:
    model = Reading().eval()
    compiled = sf.compile(model)
    with torch.no_grad():
        for name in (captured, *SHARING):
            call = SHARING[name]()
            torch.testing.assert_close(compiled(*call), model(*call))
    assert compiled.report.model["programs"] <= 2  # one for one tensor, one for two


class Same(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> dict[str, object]:
        y = self.fc(x)
        return {"given": x, "pair": (y, y), "other": [x, y]}


def test_outputs_that_are_one_tensor_stay_one_and_what_was_given_comes_back() -> None:
    model, x = Same().eval(), row()
    for run in (model, sf.compile(model)):
        with torch.no_grad():
            found = run(x)
        first, second = found["pair"]
        given, computed = found["other"]
        assert found["given"] is x
        assert given is x
        assert first is second
        assert computed is first


def test_a_written_argument_that_comes_back_is_the_caller_s() -> None:
    class Model(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.mul_(2)

    compiled, x = sf.compile(Model().eval()), row()
    expected = 2 * x
    assert compiled(x) is x
    torch.testing.assert_close(x, expected)


def test_a_tensor_of_the_model_as_argument() -> None:
    model = Writing().eval()
    compiled, x = sf.compile(copy.deepcopy(model)), row()
    inner = compiled._model
    with torch.no_grad():
        torch.testing.assert_close(
            compiled(x.clone(), inner.fc.weight[:3]), model(x.clone(), model.fc.weight[:3])
        )
        for call in ((inner.total, x), (x, inner.total), (inner.fc.weight[:3], x)):
            with pytest.raises(ArgumentError, match="overlaps a tensor of the model"):
                compiled(*call)


class Halves(nn.Module):
    """A buffer that is a view of another, and is written."""

    def __init__(self) -> None:
        super().__init__()
        whole = torch.zeros(4, WIDTH)
        self.register_buffer("whole", whole)
        self.register_buffer("upper", whole[:2])

    def forward(self, x: Tensor) -> Tensor:
        self.upper.add_(1)
        return x + self.whole.sum()


def test_a_buffer_written_under_two_names_is_refused_by_name() -> None:
    with pytest.raises(CaptureError, match=r"(upper|whole).*shares memory|shares memory.*(upper|whole)"):
        sf.compile(Halves().eval(), (row(),))


def test_one_cache_object_twice_and_one_tensor_in_two_layers() -> None:
    class Model(nn.Module):
        def forward(self, x: Tensor, parts: list[dict[str, Tensor]]) -> Tensor:
            if parts[0]["k"] is parts[1]["k"]:
                return x + parts[0]["k"]
            return x - parts[1]["k"]

    model = Model().eval()
    compiled = sf.compile(model)
    x, k = row(), row()
    for parts in (
        [{"k": k}, {"k": k}],
        [{"k": k}, {"k": k.clone()}],
        [{"k": x}, {"k": x}],
        [{"k": x}, {"k": k}],
    ):
        torch.testing.assert_close(compiled(x, parts), model(x, parts))


def test_a_static_cache_whose_layers_share_memory_is_refused() -> None:
    model = zoo.text_model("llama")
    compiled = sf.compile(model)

    def cache() -> tf.StaticCache:
        made = tf.StaticCache(config=model.config, max_cache_len=8)
        with torch.no_grad():
            model(zoo.tokens(2, 3), **{zoo.CACHE: made})
        return made

    ids = zoo.tokens(2, 1)
    with torch.no_grad():
        compiled(input_ids=ids, **{zoo.CACHE: cache()})
        shared = cache()
        shared.layers[1].keys = shared.layers[0].keys[:]
        with pytest.raises(ArgumentError, match="overlaps"):
            compiled(input_ids=ids, **{zoo.CACHE: shared})


ONES_THAT_MAY_COPY = {
    "contiguous": lambda x: x.contiguous(),
    "a part of contiguous": lambda x: x.contiguous()[0],
    "beside another": lambda x: (x.contiguous(), x + 1),
    "channels last": lambda x: x[None, None].contiguous(memory_format=torch.channels_last),
    "to a memory format": lambda x: x.to(torch.float32, memory_format=torch.contiguous_format),
    "transposed": lambda x: x.mT.contiguous(),
    "reshape": lambda x: x.reshape(-1),
    "ravel": lambda x: x.ravel(),
}


class Function(nn.Module):
    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


@pytest.mark.parametrize("strided", [(False, True, False), (True, False, True)], ids=["whole", "strided"])
@pytest.mark.parametrize("function", ONES_THAT_MAY_COPY.values(), ids=ONES_THAT_MAY_COPY)
def test_a_result_is_its_input_where_it_is_in_eager(function, strided):
    model = Function(function).eval()
    compiled = sf.compile(model, inner="eager")
    for every_other in strided:
        x = torch.rand(12, 16)[::2] if every_other else torch.rand(6, 16)
        found, expected = compiled(x), model(x)
        if isinstance(expected, tuple):
            found, expected = found[0], expected[0]
        assert torch.equal(found, expected)
        assert (found is x) == (expected is x)
        assert found.stride() == expected.stride()
        assert (found.untyped_storage().data_ptr() == x.untyped_storage().data_ptr()) == (
            expected.untyped_storage().data_ptr() == x.untyped_storage().data_ptr()
        )
