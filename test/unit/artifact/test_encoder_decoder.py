"""Artifacts of encoder-decoder models generate what the compiled model did: their encoders are saved too."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import sparseflow as sf
from sparseflow.errors import ArgumentError

transformers = pytest.importorskip("transformers")

SMALL = {
    "d_model": 32, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2, "vocab_size": 64,
    "decoder_attention_heads": 2, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64,
}  # fmt: skip
OPTIONS = {"min_new_tokens": 5, "max_new_tokens": 5, "do_sample": False}


def t5() -> nn.Module:
    config = transformers.T5Config(
        d_model=32, d_kv=8, d_ff=64, num_layers=1, num_heads=4, vocab_size=64, decoder_start_token_id=0
    )
    return transformers.T5ForConditionalGeneration(config)


def bart() -> nn.Module:
    return transformers.BartForConditionalGeneration(
        transformers.BartConfig(**SMALL, max_position_embeddings=64)
    )


def whisper() -> nn.Module:
    config = transformers.WhisperConfig(
        **SMALL, num_mel_bins=8, max_source_positions=30, max_target_positions=32, pad_token_id=0,
        bos_token_id=1, eos_token_id=2, decoder_start_token_id=3, suppress_tokens=None,
        begin_suppress_tokens=None,
    )  # fmt: skip
    return transformers.WhisperForConditionalGeneration(config)


def ids(length: int) -> Tensor:
    return torch.randint(4, 60, (2, length))


def frames(seed: int) -> Tensor:
    return torch.randn(1, 8, 60)


@pytest.mark.parametrize(("make", "given"), [(t5, ids), (bart, ids), (whisper, frames)])
def test_a_loaded_model_generates_the_tokens_of_the_pruned_one(
    make: Callable[[], nn.Module], given: Callable[[int], Tensor], tmp_path
) -> None:
    torch.manual_seed(0)
    model = make().eval()
    compiled = sf.compile(model, policy="sparse", prune="magnitude", inner="eager", progress=False)
    first, second = given(7), given(9)
    compiled.generate(first, **OPTIONS)
    compiled.save(tmp_path / "artifact")
    loaded = sf.load(tmp_path / "artifact", inner="eager")
    sf.prune(model, progress=False)
    for inputs in (first, second):
        assert torch.equal(loaded.generate(inputs, **OPTIONS), model.generate(inputs, **OPTIONS))


def test_without_a_generate_before_saving_the_encoder_is_missing_by_name(tmp_path) -> None:
    model = t5().eval()
    compiled = sf.compile(model, policy="sparse", inner="eager", progress=False)
    with torch.no_grad():
        compiled(input_ids=ids(7), decoder_input_ids=ids(3))
    compiled.save(tmp_path / "artifact")
    loaded = sf.load(tmp_path / "artifact", inner="eager")
    with pytest.raises(
        ArgumentError, match=r"generate\(\) calls encoder, .*\n.*call compiled\.generate once"
    ):
        loaded.generate(ids(7), **OPTIONS)
