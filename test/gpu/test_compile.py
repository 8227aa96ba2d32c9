"""sf.compile(model.cuda()): programs, paths, modes and reasons on a GPU."""

import contextlib
import copy
import dataclasses
import functools
import threading

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import sparseflow as sf
from sparseflow.runtime.dispatch import Policy
from sparseflow.runtime.packed import PackedWeight

# Inductor compiles for minutes what most tests here are not about.
compile_eager = functools.partial(sf.compile, prune="magnitude", inner="eager")

BOUND = {torch.bfloat16: 1e-2, torch.float16: 2e-3, torch.float32: 1e-5}


class Mlp(nn.Module):
    def __init__(self, width=256, hidden=512):
        super().__init__()
        self.gate = nn.Linear(width, hidden, bias=False)
        self.up = nn.Linear(width, hidden, bias=False)
        self.down = nn.Linear(hidden, width)
        self.odd = nn.Linear(width, 72)

    def forward(self, x):
        return self.odd(x + self.down(F.silu(self.gate(x)) * self.up(x)))


def model_of(dtype=torch.bfloat16):
    torch.manual_seed(0)
    return Mlp().eval().to("cuda", dtype)


def pruned(model, report):
    twin = copy.deepcopy(model)
    with torch.no_grad():
        for layer in report.layers:
            if layer.rel_err:
                weight = twin.get_submodule(layer.name).weight
                weight.copy_(sf.prune_24(weight))
    return twin


def assert_close(found, expected):
    assert found.shape == expected.shape
    error = (found.double() - expected.double()).norm() / expected.double().norm().clamp(min=1e-30)
    assert error <= BOUND[found.dtype]


@pytest.fixture
def mixed(monkeypatch):
    """A policy with a dense range, as if tuned."""

    def policies(shapes, dtype, device, **options):
        policy = Policy.parse("1:cusparselt@3,32:dense,128:cusparselt@5")
        return {
            shape: dataclasses.replace(policy, keeps_dense=options["memory"] != "compressed")
            for shape in shapes
            if shape[0] % 64 == 0
        } | {shape: "as if untuned" for shape in shapes if shape[0] % 64}

    monkeypatch.setattr("sparseflow.runtime.products.which.policies", policies)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("inner", ["eager", "auto"])
def test_equals_the_pruned_eager_model_for_any_batch(dtype, inner):
    model = model_of(dtype)
    x = torch.randn(4, 256, device="cuda").to(dtype)
    compiled = sf.compile(model, (x,), prune="magnitude", policy="sparse", inner=inner)
    reference = pruned(model, compiled.report)
    for m in (4, 3, 17, 100, 130):
        x = torch.randn(m, 256, device="cuda").to(dtype)
        with torch.no_grad():
            assert_close(compiled(x), reference(x))
    assert {layer.name: layer.decision for layer in compiled.report.layers} == {
        "gate": "sparse",
        "up": "sparse",
        "down": "sparse",
        "odd": "sparse",
    }
    # One for the first batch and one for all others.
    assert compiled.report.model["compilations"]["inductor"]["compiles"] == (2 if inner == "auto" else 0)


@pytest.mark.usefixtures("mixed")
@pytest.mark.parametrize("memory", ["auto", "compressed", "fast"])
@pytest.mark.parametrize("context", [contextlib.nullcontext, torch.inference_mode, torch.no_grad])
def test_every_range_of_a_policy_gives_the_same(memory, context):
    model = model_of()
    compiled = compile_eager(model, memory=memory)
    for m in (2, 31, 32, 127, 128, 300, 1):
        x = torch.randn(m, 256, device="cuda", dtype=torch.bfloat16)
        with context():
            found = compiled(x)
        with torch.no_grad():
            assert_close(found, pruned(model, compiled.report)(x))
    kept = [m.dense is not None for m in compiled.graph().modules() if isinstance(m, PackedWeight)]
    assert kept == [memory != "compressed"] * 2
    assert "cusparselt@3" in compiled.mlir()


@pytest.mark.usefixtures("mixed")
def test_a_captured_graph_replays_with_new_inputs():
    model = model_of()
    compiled = compile_eager(model)
    for m in (8, 64, 256):
        x = torch.randn(m, 256, device="cuda", dtype=torch.bfloat16)
        stream = torch.cuda.Stream()
        with torch.cuda.stream(stream), torch.no_grad():
            compiled(x)
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph), torch.no_grad():
            y = compiled(x)
        for _ in range(3):
            x.copy_(torch.randn(m, 256, device="cuda", dtype=torch.bfloat16))
            graph.replay()
            with torch.no_grad():
                assert_close(y, pruned(model, compiled.report)(x))


@pytest.mark.usefixtures("mixed")
def test_autocast_of_a_compiled_model():
    model = model_of()
    compiled = compile_eager(model)
    x = torch.randn(8, 256, device="cuda", dtype=torch.bfloat16)
    compiled(x)
    with torch.autocast("cuda", torch.bfloat16), torch.no_grad():
        assert_close(compiled(x), pruned(model, compiled.report)(x))


@pytest.mark.usefixtures("mixed")
def test_eight_threads_share_one_compiled_model():
    model = model_of()
    compiled = compile_eager(model)
    compiled(torch.randn(2, 256, device="cuda", dtype=torch.bfloat16))
    reference = pruned(model, compiled.report)
    failures = []

    def work(seed):
        generator = torch.Generator("cuda").manual_seed(seed)
        with torch.cuda.stream(torch.cuda.Stream()), torch.no_grad():
            for m in (3, 40, 140, 16, 77):
                x = torch.randn(m, 256, device="cuda", generator=generator).bfloat16()
                try:
                    assert_close(compiled(x), reference(x))
                except Exception as error:  # shown by the main thread
                    failures.append(error)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


def test_a_compiled_model_moves_between_devices():
    model = model_of().cpu()
    compiled = compile_eager(model, (torch.randn(4, 256).bfloat16(),), policy="sparse")
    graph = copy.deepcopy(compiled.graph()).cuda()
    x = torch.randn(5, 256).bfloat16()
    (on_cuda,), (on_cpu,) = graph(x.cuda()), compiled.graph()(x)
    assert_close(on_cuda.cpu(), on_cpu)


def test_what_no_table_has_stays_dense_and_says_how_to_tune_it(monkeypatch, tmp_path):
    monkeypatch.setenv("SPARSEFLOW_CACHE_DIR", str(tmp_path))
    x = torch.randn(4, 256, device="cuda").bfloat16()
    report = compile_eager(model_of(), (x,), tune="off").report
    reasons = {layer.name: layer.reason for layer in report.layers}
    assert "no table has 1024×256 bfloat16" in reasons["gate"]
    assert "tune it: sf.compile(model)" in reasons["down"]
    assert "no table has 72×256 bfloat16" in reasons["odd"]
    assert all(layer.decision == "dense" for layer in report.layers)


def test_float32_layers_stay_dense_and_say_why():
    model = model_of(torch.float32)
    x = torch.randn(4, 256, device="cuda")
    compiled = compile_eager(model, (x,))
    with torch.no_grad():
        assert_close(compiled(x), pruned(model, compiled.report)(x))
    assert "bfloat16 or float16, not float32" in compiled.report.layers[0].reason


def test_without_the_library_all_is_dense_with_its_reason(monkeypatch):
    monkeypatch.setattr(
        "sparseflow.runtime.gpu.library.unusable", lambda device=None: "cuSPARSELt is not installed"
    )
    model, x = model_of(), torch.randn(4, 256, device="cuda").bfloat16()
    for policy in ("auto", "sparse"):
        compiled = compile_eager(model, (x,), policy=policy)
        with torch.no_grad():
            assert_close(compiled(x), pruned(model, compiled.report)(x))
        reasons = {layer.name: layer.reason for layer in compiled.report.layers}
        assert reasons["down"] == "pruned by magnitude; cuSPARSELt is not installed"


@pytest.mark.slow
@pytest.mark.parametrize("tune", ["quick", "full"])
def test_tune_measures_what_is_missing(monkeypatch, tmp_path, tune):
    monkeypatch.setenv("SPARSEFLOW_CACHE_DIR", str(tmp_path))
    model, x = model_of(), torch.randn(4, 256, device="cuda").bfloat16()
    compiled = compile_eager(model, (x,), tune=tune)
    reasons = {layer.name: layer.reason for layer in compiled.report.layers}
    # So small a layer may win nowhere: but it was measured.
    assert "no table" not in reasons["gate"]
    assert "not tuned" not in reasons["gate"]
    with torch.no_grad():
        assert_close(compiled(x), pruned(model, compiled.report)(x))
    again = compile_eager(model, (x,), tune="off")
    assert {layer.name: layer.reason for layer in again.report.layers} == reasons


def test_inplace_leaves_no_dense_copy_on_the_gpu():
    class Wide(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.Sequential(*(nn.Linear(4096, 4096, bias=False) for _ in range(8)))

        def forward(self, x):
            return self.layers(x)

    with torch.device("cuda"):
        torch.cuda.empty_cache()
        before = torch.cuda.memory_allocated()
        model = Wide().eval().to(torch.bfloat16)
        dense = torch.cuda.memory_allocated() - before
        compiled = compile_eager(model, (torch.randn(64, 4096).bfloat16(),), policy="sparse", inplace=True)
        now = torch.cuda.memory_allocated() - before
    assert all(layer.decision == "sparse" for layer in compiled.report.layers)
    assert now <= 0.57 * dense
