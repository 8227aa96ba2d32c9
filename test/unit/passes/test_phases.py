"""The order of the passes: one place decides it, and its text reproduces what compiled a model."""

import ast
import json
import shlex
from dataclasses import fields, replace
from pathlib import Path

import pytest
import torch
from torch import nn

import sparseflow as sf
from sparseflow.errors import PassError
from sparseflow.passes import named_pipeline
from sparseflow.passes.apply_policy import ApplyPolicy
from sparseflow.passes.phases import PHASES, PipelineOptions, phases, pipeline
from sparseflow.passes.registry import PASSES
from sparseflow.tools.opt import main

ROOT = Path(__file__).parents[3]


class Block(nn.Module):
    """Attention with a mask that is made, a gated MLP and a layer that is too small."""

    def __init__(self):
        super().__init__()
        self.q, self.k, self.v, self.o = (nn.Linear(64, 64) for _ in range(4))
        self.gate_proj, self.up_proj = (nn.Linear(64, 128, bias=False) for _ in range(2))
        self.down_proj, self.router = nn.Linear(128, 64, bias=False), nn.Linear(64, 4)

    def forward(self, x):
        places = torch.arange(x.shape[1])
        heads = [layer(x)[:, None] for layer in (self.q, self.k, self.v)]
        mask = places[:, None] >= places
        x = x + self.o(nn.functional.scaled_dot_product_attention(*heads, attn_mask=mask)[:, 0])
        x = x + self.down_proj(nn.functional.silu(self.gate_proj(x)) * self.up_proj(x))
        return self.router(x)


X = torch.randn(2, 8, 64)


def block():
    torch.manual_seed(0)
    return Block().eval()


def partly_sparse():
    model = block()
    with torch.no_grad():
        model.o.weight.copy_(sf.prune_24(model.o.weight))
    return model


def reproduced(compiled, tmp_path):
    """What the driver makes of the imported program by the text of its passes, and what it should be."""
    source, made = tmp_path / "torch.mlir", tmp_path / "runtime.mlir"
    source.write_text(compiled.mlir("torch"))
    assert main([str(source), f"--pass-pipeline={compiled.pipeline()}", "-o", str(made)]) == 0
    return made.read_text().rstrip(), compiled.mlir("runtime").rstrip()


@pytest.mark.parametrize(
    "options",
    [
        {"policy": "sparse"},
        {"policy": "sparse", "prune": "magnitude", "memory": "fast", "skip": ["o", "*_proj"]},
        {"prune": "magnitude"},
        {"policy": "sparse", "prune": "magnitude", "format": "2:4-fp8"},
    ],
    ids=["marked", "options", "measured", "fp8"],
)
def test_the_text_of_a_compiled_model_reproduces_it(tmp_path, options):
    half = torch.bfloat16 if "format" in options else torch.float32
    compiled = sf.compile(partly_sparse().to(half), (X.to(half),), progress=False, **options)
    again, expected = reproduced(compiled, tmp_path)
    assert again == expected


@pytest.mark.parametrize("stored", [None, "2:4"])
def test_the_text_of_a_contextual_model_reproduces_it(tmp_path, stored):
    predictor = sf.train_predictor(block(), [torch.randn(4, 16, 64) for _ in range(3)], progress=False)
    options = {"format": stored, "contextual": predictor, "policy": "sparse", "prune": "magnitude"}
    compiled = sf.compile(block(), (X,), progress=False, **options)
    assert "contextual_mlp" in compiled.mlir("runtime")
    again, expected = reproduced(compiled, tmp_path)
    assert again == expected


def test_layers_under_autocast_are_explained_by_the_passes_alone(tmp_path):
    class Cast(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = nn.Linear(64, 64), nn.Linear(64, 64), nn.Linear(64, 8)

        def forward(self, x):
            with torch.autocast("cpu", dtype=torch.bfloat16):
                return self.c(torch.relu(self.b(self.a(x))))

    compiled = sf.compile(Cast().eval(), (X,), prune="magnitude", skip=["b"], policy="sparse", progress=False)
    again, expected = reproduced(compiled, tmp_path)
    assert again == expected
    assert "weight 'a.weight' is cast in each call" in again
    assert "skipped by the pattern 'b'" in again
    assert "N = 8 is below" in again


def test_an_artifact_has_the_measurements_that_a_pipeline_takes(tmp_path):
    compiled = sf.compile(block(), (X,), prune="magnitude", progress=False)
    saved, made = tmp_path / "saved", tmp_path / "made.mlir"
    compiled.save(saved)
    assert len(json.loads((saved / "policies.json").read_text())) >= 3
    named = f"sparse-gemm{{policies={shlex.quote(str(saved / 'policies.json'))}}}"
    assert main([str(saved / "program-0.torch.mlir"), f"--pipeline={named}", "-o", str(made)]) == 0
    assert made.read_text().rstrip() == compiled.mlir("sparse_gemm").rstrip()


def test_every_pass_has_one_place():
    placed = [name for names in PHASES.values() for name in names]
    assert sorted(placed) == sorted(PASSES)


def test_every_option_belongs_to_a_phase_and_changes_its_passes_only():
    plain = {phase.name: phase for phase in phases(PipelineOptions())}
    assert [name for phase in plain.values() for name in phase.inputs] == [
        f.name for f in fields(PipelineOptions)
    ]
    values = {"memory": "fast", "format": "2:4-fp8", "skip": ("a",), "outside_reason": "why"}
    values |= {"head": "lm_head.weight", "head_format": "fp8", "queries": "any"}
    for option in fields(PipelineOptions):
        # Without a head its format is nobody's.
        base = PipelineOptions(head="w") if option.name == "head_format" else PipelineOptions()
        before = {phase.name: phase for phase in phases(base)}
        changed = phases(replace(base, **{option.name: values.get(option.name, {"entry": "dense"})}))
        assert [p.name for p in changed if p != before[p.name]] == [option.metadata["phase"]]


def test_a_pipeline_holds_all_phases_up_to_its_own():
    assert [p.name for p in pipeline("canonical")] == list(PHASES["canonical"])
    assert [p.name for p in pipeline("matched")] == [*PHASES["canonical"], *PHASES["matched"]]
    with pytest.raises(PassError, match="Did you mean 'merged'"):
        pipeline("merge")


def test_a_pipeline_by_its_name_with_options():
    passes = named_pipeline('runtime{memory=fast policies=\'{"f32:8x8": "dense"}\'}')
    assert ApplyPolicy({"f32:8x8": "dense"}, memory="fast") in passes


def test_nothing_else_orders_passes():
    """Outside of `passes`, what is run is what `phases` or the user's text gives."""
    classes = {target.partition(":")[2] for target in PASSES.values()}
    lists = []
    for path in sorted((ROOT / "sparseflow_compiler").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, (ast.List, ast.Tuple)):
                called = {getattr(item.func, "id", "") for item in node.elts if isinstance(item, ast.Call)}
                lists += [(path.name, name) for name in called & classes]
    assert lists == []
