"""Methods of the original model that run it: what they run is compiled, or they say once that it isn't."""

from __future__ import annotations

import warnings

import pytest
import torch
import transformers
from torch import nn

import sparseflow as sf
from sparseflow.errors import DenseWarning

IDS = torch.tensor([[3, 1, 4, 1, 5], [9, 2, 6, 5, 3]])


@pytest.fixture(autouse=True)
def _strict():
    torch.manual_seed(0)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("error", DenseWarning)
        yield


class Pooled(nn.Sequential):
    """As in sentence-transformers: modules over a dict of features, and `encode`, which calls them."""

    def forward(self, features: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        hidden = features["x"]
        for module in self:
            hidden = module(hidden)
        return {**features, "embedding": hidden.mean(1)}

    def encode(self, x: torch.Tensor, *, wrap: bool = False) -> torch.Tensor:
        self.calls = getattr(self, "calls", 0) + 1
        features = {"x": x}
        if wrap:
            features = transformers.BatchEncoding(features)
        return self(features)["embedding"]

    def first(self, x: torch.Tensor) -> torch.Tensor:
        return self[0](x)

    def half_and_half(self, x: torch.Tensor) -> torch.Tensor:
        return self.encode(x) + self[0](x).mean(1)[:, :32]

    def width(self) -> int:
        return self[0].out_features


@pytest.fixture
def pooled():
    return Pooled(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 32)).eval()


def test_encode_runs_compiled(pooled):
    x = torch.randn(3, 4, 32)
    expected = pooled.encode(x)
    compiled = sf.compile(pooled, policy="sparse")
    torch.testing.assert_close(compiled.encode(x), expected)
    torch.testing.assert_close(compiled.encode(x[:2], wrap=True), expected[:2])
    assert len(compiled.report.model["captures"]) >= 1
    assert compiled.width() == 64
    assert compiled.report.model["dense_methods"] == []


def test_encode_runs_the_pruned_weights(pooled):
    x = torch.randn(3, 4, 32)
    compiled = sf.compile(pooled, policy="sparse", prune="magnitude")
    dense = pooled.encode(x)
    sf.prune(pooled, skip_defaults=False, progress=False)
    torch.testing.assert_close(compiled.encode(x), pooled.encode(x))
    assert not torch.allclose(compiled.encode(x), dense)


def test_what_a_method_sets_is_kept_on_the_model(pooled):
    compiled, x = sf.compile(pooled, policy="sparse"), torch.randn(3, 4, 32)
    for _ in range(3):
        compiled.encode(x)
    assert pooled.calls == compiled.calls == 3
    assert "forward" not in vars(pooled)


@pytest.mark.parametrize("name", ["first", "half_and_half"])
def test_a_method_that_runs_layers_by_itself_says_so_once(pooled, name):
    compiled, x = sf.compile(pooled, policy="sparse"), torch.randn(3, 4, 32)
    with pytest.warns(DenseWarning, match=f"{name}.* run densely"):
        found = getattr(compiled, name)(x)
    torch.testing.assert_close(found, getattr(pooled, name)(x))
    getattr(compiled, name)(x)
    assert compiled.report.model["dense_methods"] == [name]


def clip() -> transformers.CLIPModel:
    text = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2,
            "vocab_size": 40, "max_position_embeddings": 16, "eos_token_id": 3}  # fmt: skip
    vision = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2,
              "image_size": 8, "patch_size": 4}  # fmt: skip
    config = transformers.CLIPConfig(text_config=text, vision_config=vision, projection_dim=16)
    return transformers.CLIPModel(config).eval()


def tensor(output):
    return output if isinstance(output, torch.Tensor) else output.pooler_output


def test_features_of_texts_and_images_run_compiled():
    model = clip()
    compiled = sf.compile(model, policy="sparse", prune="magnitude")
    images = torch.randn(2, 3, 8, 8)
    texts, pictures = compiled.get_text_features(input_ids=IDS), compiled.get_image_features(images)
    captures = compiled.report.model["captures"]
    assert [capture.partition(":")[0] for capture in captures] == ["get_text_features", "get_image_features"]
    assert any(layer.decision == "sparse" for layer in compiled.report.layers)
    sf.prune(model, skip_defaults=False, progress=False)
    torch.testing.assert_close(
        tensor(texts), tensor(model.get_text_features(input_ids=IDS)), rtol=1e-4, atol=1e-4
    )
    torch.testing.assert_close(
        tensor(pictures), tensor(model.get_image_features(images)), rtol=1e-4, atol=1e-4
    )


def t5() -> nn.Module:
    config = transformers.T5Config(
        d_model=32, d_kv=8, d_ff=64, num_layers=1, num_heads=4, vocab_size=64, decoder_start_token_id=0
    )
    return transformers.T5ForConditionalGeneration(config).eval()


def bart() -> nn.Module:
    config = transformers.BartConfig(
        d_model=32, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2, decoder_attention_heads=2,
        encoder_ffn_dim=64, decoder_ffn_dim=64, vocab_size=64, max_position_embeddings=64,
    )  # fmt: skip
    return transformers.BartForConditionalGeneration(config).eval()


@pytest.mark.parametrize(("make", "encoder"), [(t5, "encoder"), (bart, "model.encoder")])
def test_the_encoder_runs_compiled_in_generate(make, encoder):
    model = make()
    compiled = sf.compile(model, policy="sparse", prune="magnitude", skip=("lm_head",))
    options = {"max_new_tokens": 5, "do_sample": False}
    tokens = compiled.generate(IDS, **options)
    report = compiled.report
    assert any(capture.startswith(f"{encoder}: ") for capture in report.model["captures"])
    sparse = {layer.name for layer in report.layers if layer.decision == "sparse"}
    assert any(name.startswith(encoder) for name in sparse)
    sf.prune(model, skip=("lm_head",), progress=False)
    assert torch.equal(tokens, model.generate(IDS, **options))


def test_continuous_batching_says_that_it_runs_densely():
    class Batched(nn.Sequential):
        def generate_batch(self, x):
            return self(x)

    model, x = Batched(nn.Linear(32, 32)).eval(), torch.randn(2, 32)
    compiled = sf.compile(model, policy="sparse")
    with pytest.warns(DenseWarning, match=r"generate_batch\(\)"):
        compiled.generate_batch(x)
    compiled.generate_batch(x)
