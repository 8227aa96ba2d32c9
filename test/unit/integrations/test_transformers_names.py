"""What transformers calls things is looked up in the model at hand, whatever version is installed."""

from __future__ import annotations

import warnings

import pytest
import torch
import zoo
from torch import Tensor, nn

import sparseflow as sf
from sparseflow.errors import UntestedVersionWarning
from sparseflow.integrations.transformers import versions
from sparseflow.integrations.transformers.argument_names import cache_argument, returned_cache, with_cache
from sparseflow.runtime.calling.calls import CallSignature


class Old(nn.Module):
    def forward(self, input_ids: Tensor, past_key_values: Tensor | None = None) -> Tensor:
        return input_ids


class New(nn.Module):
    def forward(self, input_ids: Tensor, cache: Tensor | None = None) -> Tensor:
        return input_ids


class Without(nn.Module):
    def forward(self, input_ids: Tensor) -> Tensor:
        return input_ids


@pytest.mark.parametrize(("kind", "name"), [(Old, "past_key_values"), (New, "cache"), (Without, None)])
def test_a_cache_has_the_name_that_forward_gives_it(kind: type[nn.Module], name: str | None) -> None:
    assert cache_argument(kind()) == cache_argument(sf.compile(kind().eval())) == name
    if name is None:
        with pytest.raises(TypeError, match="Without takes no cache"):
            with_cache(kind(), object())
    else:
        assert list(with_cache(kind(), 1)) == [name]


@pytest.mark.parametrize("name", ["cache", "past_key_values"])
def test_an_output_has_its_cache_under_either_name(name: str) -> None:
    assert returned_cache({name: 7}) == 7
    assert returned_cache({"logits": 1}) is None


@pytest.mark.parametrize("name", ["cache", "past_key_values"])
def test_a_compiled_llama_takes_its_cache_under_either_name(name: str) -> None:
    model, calls = zoo.model_and_calls("llama")
    sf.prune(model, progress=False)
    compiled = sf.compile(model, policy="sparse")
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("error")
        first = compiled(**calls[0][1])
        compiled(input_ids=calls[0][1]["input_ids"][:, :1], **{name: returned_cache(first)})
    assert returned_cache(first).get_seq_length() == calls[0][1]["input_ids"].shape[1] + 1


def test_another_modules_argument_of_that_name_is_its_own() -> None:
    call = CallSignature.of(New().forward)
    assert call.canonical((1,), {"past_key_values": 2})[1] == {"input_ids": 1, "past_key_values": 2}


@pytest.mark.parametrize(
    ("version", "said"),
    [("5.17.0", None), ("5.24.3", None), ("5.16.9", "older"), ("5.25.0.dev0", "newer"), ("6.0", "newer")],
)
def test_versions_outside_of_the_range_are_warned_of_once(
    version: str, said: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(versions, "supported", lambda: "<5.25,>=5.17")
    versions.warn_if_untested.cache_clear()
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        versions.warn_if_untested(version)
        versions.warn_if_untested(version)
    assert [w.category for w in found] == ([] if said is None else [UntestedVersionWarning])
    assert said is None or said in str(found[0].message)


def test_the_range_is_that_of_pyproject() -> None:
    assert versions.supported().count("5.17") == 1
