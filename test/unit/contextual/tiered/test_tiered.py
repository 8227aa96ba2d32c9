"""MLPs over two tiers, a CPU's memory and itself or a file: random masks against a plain reference."""

import dataclasses
import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sparseflow.errors import ArgumentError, TierError
from sparseflow.runtime.contextual import ContextualWeights, Predictor
from sparseflow.runtime.contextual.tiered import DifferentialCache, FileWeights, HostWeights, TieredMLP, file
from sparseflow.runtime.contextual.tiered.source import PER_NEURON

HIDDEN, NEURONS = 24, 40


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def weights(gated=True, biased=True, dtype=torch.float32):
    gate, up, down = (randn(NEURONS, HIDDEN, seed=s).div(HIDDEN**0.5).to(dtype) for s in (1, 2, 3))
    bias = {"up_bias": randn(NEURONS, seed=4).to(dtype), "down_bias": randn(HIDDEN, seed=5).to(dtype)}
    return ContextualWeights(gate if gated else None, up, down, **(bias if biased else {}), activation="gelu")


def from_file(w, folder):
    path = folder / "mlp.safetensors"
    FileWeights.save(w, path)
    return FileWeights(path)


SOURCES = {"host": lambda w, folder: HostWeights(w), "file": from_file}


def capacity(source, slots):
    outline = source.outline
    bias = 0 if outline.down_bias is None else outline.down_bias.nbytes
    return bias + 4 * (NEURONS + 4) + slots * (outline.neuron_bytes + 8)


def mask(neurons):
    out = torch.zeros(NEURONS, dtype=torch.bool)
    out[list(neurons)] = True
    return out


def reference(w, x, wanted):
    at = wanted.nonzero().view(-1).int()
    return w.run(
        x, torch.cat([at, at.new_zeros(NEURONS - len(at))]), torch.tensor([len(at)], dtype=torch.int32)
    )


def check(cache, w):
    """Every neuron that is in a slot is whole there, and the two maps say the same."""
    slot_of, neuron_of = cache._slot_of.tolist(), cache._neuron_of.tolist()
    held = [n for n in neuron_of[:-1] if n < NEURONS]
    assert len(set(held)) == len(held)
    assert sorted(held) == cache.resident.nonzero().view(-1).tolist()
    assert (slot_of[NEURONS], neuron_of[cache.slots]) == (cache.slots, NEURONS)
    for neuron in held:
        assert neuron_of[slot_of[neuron]] == neuron
        for name in PER_NEURON:
            if (whole := getattr(w, name)) is not None:
                assert torch.equal(getattr(cache.weights, name)[slot_of[neuron]], whole[neuron])


MASKS = st.lists(st.sets(st.integers(0, NEURONS - 1)), min_size=1, max_size=6)


@pytest.mark.parametrize("kind", SOURCES)
@pytest.mark.parametrize("form", ["gated", "plain", "int8", "bfloat16"])
def test_any_sequence_of_masks_gives_what_all_weights_would(kind, form, tmp_path_factory):
    w = weights(gated=form != "plain", dtype=torch.bfloat16 if form == "bfloat16" else torch.float32)
    w = w.quantized() if form == "int8" else w
    source = SOURCES[kind](w, tmp_path_factory.mktemp("mlp"))
    x = randn(2, HIDDEN).to(torch.bfloat16 if form == "bfloat16" else torch.float32)
    never = Predictor(randn(2, HIDDEN), randn(NEURONS, 2), None, "top_k", 0)
    close = {"rtol": 0.03, "atol": 0.03} if form == "bfloat16" else {}

    @settings(max_examples=15, deadline=None)
    @given(MASKS, st.integers(1, NEURONS + 3))
    def run(masks, slots):
        room = capacity(source, slots)
        mlp = TieredMLP(source, never, room)
        assert mlp.cache.slots == min(slots, NEURONS)
        assert mlp.cache.nbytes <= room
        for neurons in masks:
            wanted, before = mask(neurons), mlp.cache.resident
            torch.testing.assert_close(mlp.over(x, wanted), reference(w, x, wanted), **close)
            check(mlp.cache, w)
            if len(neurons) <= slots:
                assert (mlp.cache.resident | ~wanted).all()
                # What nobody wants gives way only where there is need.
                assert int(mlp.cache.resident.sum()) == min(slots, int((before | wanted).sum()))

    run()


def test_only_what_is_wanted_and_absent_is_fetched(monkeypatch):
    source, fetched = HostWeights(weights()), []
    fetch = source.fetch

    def watched(into, neurons, slots, count):
        fetched.append(set(neurons[: int(count)].tolist()))
        fetch(into, neurons, slots, count)

    monkeypatch.setattr(source, "fetch", watched)
    cache = DifferentialCache(source, capacity(source, 12))
    for neurons in (range(10), range(10), range(1, 12), (), range(4)):
        cache.update(mask(neurons))
    assert fetched == [set(range(10)), set(), {10, 11}, set(), set()]
    cache.update(mask((20, 21)))  # over those that were wanted the longest ago
    assert cache.resident.nonzero().view(-1).tolist() == [*range(4), *range(6, 12), 20, 21]
    cache.update(mask((0, *range(30, 37))))
    assert cache.resident.nonzero().view(-1).tolist() == [0, 2, 3, 20, 21, *range(30, 37)]


@pytest.mark.parametrize("slots", [1, 7, NEURONS])
def test_the_bound_holds_and_is_used(slots):
    source = HostWeights(weights())
    cache = DifferentialCache(source, capacity(source, slots))
    assert cache.nbytes == capacity(source, slots)
    assert DifferentialCache(source, capacity(source, slots) - 1 + (slots == 1)).slots == max(1, slots - 1)
    with pytest.raises(ArgumentError, match="expected at least"):
        DifferentialCache(source, capacity(source, 1) - 1)


def test_a_mask_of_another_size_or_dtype_is_refused_and_changes_nothing():
    source = HostWeights(weights())
    cache = DifferentialCache(source, capacity(source, 9))
    cache.update(mask(range(5)))
    for wrong in (
        mask(range(9))[:-1],
        mask(range(9))[None],
        mask(range(9)).int(),
        torch.zeros(0, dtype=torch.bool),
    ):
        for method in (cache.update, cache.listed, cache.absent):
            with pytest.raises(ArgumentError, match=r"expected bool \[40\]"):
                method(wrong)
    assert cache.resident.nonzero().view(-1).tolist() == [0, 1, 2, 3, 4]


def failing(monkeypatch, at):
    """Let the read with this number fail, once."""
    real, calls = file.os.preadv, itertools.count()

    def preadv(*args):
        if next(calls) == at:
            raise OSError(5, "Input/output error")
        return real(*args)

    monkeypatch.setattr(file.os, "preadv", preadv)


@pytest.mark.parametrize("at", range(6))
def test_a_read_that_fails_leaves_a_cache_that_is_whole(at, tmp_path, monkeypatch):
    w = weights(biased=False)
    source = from_file(w, tmp_path)
    mlp = TieredMLP(
        source, Predictor(randn(2, HIDDEN), randn(NEURONS, 2), None, "top_k", 5), capacity(source, 6)
    )
    mlp.over(randn(1, HIDDEN), mask((0, 1, 2, 30)))
    failing(monkeypatch, at)
    wanted, x = mask((1, 2, 10, 20, 21)), randn(1, HIDDEN)
    with pytest.raises(TierError, match="Input/output error"):
        mlp.over(x, wanted)
    check(mlp.cache, w)
    assert mlp.cache.resident[1] & mlp.cache.resident[2]
    torch.testing.assert_close(mlp.over(x, wanted), reference(w, x, wanted))
    check(mlp.cache, w)


def test_short_reads_go_on_and_a_truncated_file_is_named(tmp_path, monkeypatch):
    w = weights()
    source, real = from_file(w, tmp_path), file.os.preadv
    monkeypatch.setattr(file.os, "preadv", lambda fd, buffers, at: real(fd, [buffers[0][:7]], at))
    cache = DifferentialCache(source, capacity(source, 8))
    cache.update(mask((3, 4, 5, 9)))
    check(cache, w)
    path = tmp_path / "mlp.safetensors"
    path.write_bytes(path.read_bytes()[:-100])  # in place: the open file is the same
    with pytest.raises(TierError, match=r"ends at byte .* short"):
        cache.update(mask(range(33, 40)))
    check(cache, w)


@pytest.mark.parametrize(
    "content", [None, b"", b"\xff" * 8, b"\x02\0\0\0\0\0\0\0{}", b'\x05\0\0\0\0\0\0\0{"a"}']
)
def test_what_is_no_such_file_is_refused(content, tmp_path):
    path = tmp_path / "other.safetensors"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(TierError, match="can't be opened as an MLP's weights"):
        FileWeights(path)
    with pytest.raises(TierError, match="can't be written"):
        FileWeights.save(weights(), tmp_path / "no" / "folder")


@pytest.mark.parametrize("kind", SOURCES)
def test_a_prefetch_by_the_layer_before_leaves_less_to_fetch(kind, tmp_path):
    w = weights()
    source = SOURCES[kind](w, tmp_path)
    predictor = Predictor(randn(4, HIDDEN, seed=6), randn(NEURONS, 4, seed=7), None, "top_k", 10)
    mlp = TieredMLP(source, predictor, capacity(source, 20))
    for token in range(4):
        x = randn(1, HIDDEN, seed=token)
        mlp.prefetch(x + 0.01 * randn(1, HIDDEN, seed=99))
        mlp._settle()
        assert int(mlp.cache.absent(mlp.wanted(x)).sum()) < 5
        torch.testing.assert_close(mlp(x), predictor.run(x, w))
    mlp.prefetch(x)
    mlp.prefetch(-x)  # the first is waited for
    torch.testing.assert_close(mlp(-x), predictor.run(-x, w))


def test_a_prefetch_that_fails_is_raised_by_the_next_call_and_the_one_after_works(tmp_path, monkeypatch):
    w = weights()
    source = from_file(w, tmp_path)
    predictor = Predictor(randn(4, HIDDEN, seed=6), randn(NEURONS, 4, seed=7), None, "top_k", 10)
    mlp, x = TieredMLP(source, predictor, capacity(source, 20)), randn(1, HIDDEN)
    failing(monkeypatch, 0)
    mlp.prefetch(x)
    with pytest.raises(TierError, match="Input/output error"):
        mlp(x)
    torch.testing.assert_close(mlp(x), predictor.run(x, w))


def test_tiers_that_do_not_fit_each_other_are_refused(tmp_path):
    w = weights()
    for source in (HostWeights(w), from_file(w, tmp_path)):
        with pytest.raises(ArgumentError, match=r"expected (pinned memory|the CPU)"):
            source.require_reachable(torch.device("cuda", 0))
    elsewhere = {f.name: getattr(w, f.name) for f in dataclasses.fields(w)}
    elsewhere = {k: v.to("meta") if isinstance(v, torch.Tensor) else v for k, v in elsewhere.items()}
    with pytest.raises(ArgumentError, match="expected weights on the CPU"):
        HostWeights(ContextualWeights(**elsewhere))
