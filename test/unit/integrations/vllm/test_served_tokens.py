"""vLLM's engine over our checkpoints gives the tokens that transformers gives with the same weights."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import vllm_engines as engines
from unit.checkpoints.fp8_folders import blocked, save_as_torchao

ROOT = Path(__file__).parents[4]
NAMES = ("llama", "qwen3", "gemma3", "mistral")
LAYERS = 8
"""Linear layers of two decoder layers, after vLLM merged some."""


def method(**options: str) -> dict[str, dict[str, dict[str, str]]]:
    """Return options of the method, which runs sparse whatever was measured."""
    return {"additional_config": {"sparseflow": {"policy": "sparse", **options}}}


FORMS = {
    "dense": {"quantization": "sparseflow", **method(prune="magnitude")},
    "2:4": {"quantization": "sparseflow", **method()},
    "saved": method(),
    "sparseflow": method(),
    "sparse-24-bitmask": method(),
}
"""The options for each form: without a flag where config.json says it."""

PATTERNS = ("4:6", "6:8")

CASES = [
    *(("llama", form) for form in FORMS),
    *((name, form) for name in NAMES[1:] for form in ("dense", "saved", "sparse-24-bitmask")),
]
"""The other models don't load dense 2:4 weights and converted folders otherwise than Llama does."""


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    found = {}

    def of(name: str):
        if name not in found:
            found[name] = engines.save_forms(name, tmp_path_factory.mktemp(name))
        return found[name]

    return of


@pytest.mark.parametrize(("name", "form"), CASES)
def test_tokens_are_those_of_transformers(folders, name, form) -> None:
    with engines.engine(folders(name)[form], **FORMS[form]) as llm:
        assert len(engines.served(llm).sparse) == LAYERS
        assert engines.served(llm).dense == {}
        assert len(engines.served(llm).gated) == 2
        assert engines.tokens(llm) == engines.expected(name, folders(name)["2:4"])


@pytest.mark.parametrize("pattern", PATTERNS)
def test_packed_folders_of_other_patterns(tmp_path, pattern) -> None:
    engines.save_pattern("llama", pattern, tmp_path)
    with engines.engine(tmp_path / "packed", **method()) as llm:
        assert len(engines.served(llm).sparse) == LAYERS
        assert any(f", {pattern})" in line for line in engines.served(llm).lines())
        assert engines.tokens(llm) == engines.expected("llama", tmp_path / "pruned")


@pytest.mark.parametrize("writer", ["transformers", "torchao"])
def test_folders_in_fp8_of_others(tmp_path, writer) -> None:
    """Dequantised, pruned while they load, and in float32 multiplied as 2:4: as the checkpoint reads."""
    theirs, model = tmp_path / "theirs", engines.model("llama")
    if writer == "transformers":
        blocked(theirs, model, (32, 32))
    else:
        save_as_torchao(model, theirs)
    engines.save_dequantised("llama", theirs, tmp_path / "pruned")
    with engines.engine(theirs, quantization="sparseflow", **method(prune="magnitude")) as llm:
        assert len(engines.served(llm).sparse) == LAYERS
        assert engines.tokens(llm) == engines.expected("llama", tmp_path / "pruned")


def test_what_is_not_24_stays_dense_and_measured_policies_run(folders) -> None:
    with engines.engine(folders("llama")["dense"], quantization="sparseflow") as llm:
        assert len(engines.served(llm).dense) == LAYERS
        assert engines.tokens(llm) == engines.expected("llama", folders("llama")["dense"])
    with engines.engine(folders("llama")["saved"]) as llm:
        found = engines.served(llm)
        assert len(found.sparse) + len(found.dense) == LAYERS
        assert all(policy.pays for policy in found.sparse.values())
        assert all("no faster than dense" in reason for reason in found.dense.values())
        assert engines.tokens(llm) == engines.expected("llama", folders("llama")["2:4"])


def test_compiled_graphs_of_other_choices_are_not_taken(folders) -> None:
    """Under torch.compile, with vLLM's cache: the second engine runs other kernels than the first."""
    expected = engines.expected("llama", folders("llama")["2:4"])
    for policy in ("sparse", "auto", "sparse"):
        options = {"additional_config": {"sparseflow": {"policy": policy}}, "enforce_eager": False}
        with engines.engine(folders("llama")["saved"], **options) as llm:
            assert engines.tokens(llm) == expected


def test_lora_over_packed_layers(folders, tmp_path) -> None:
    """An adapter of every projection, which changes the tokens: those of PEFT over the pruned model."""
    from vllm.lora.request import LoRARequest

    pruned, adapter = folders("llama")["2:4"], tmp_path / "adapter"
    engines.save_adapter(pruned, adapter)
    expected = engines.expected("llama", pruned, adapter)
    assert expected != engines.expected("llama", pruned)
    options = {**FORMS["saved"], "enable_lora": True, "max_lora_rank": 8, "max_loras": 1}
    with engines.engine(folders("llama")["saved"], **options) as llm:
        assert len(engines.served(llm).sparse) == LAYERS
        assert engines.served(llm).gated == {}
        request = LoRARequest("adapter", 1, str(adapter))
        assert engines.tokens(llm, lora_request=request) == expected
        assert engines.tokens(llm) == engines.expected("llama", pruned)


def test_an_engine_loads_other_weights(folders, tmp_path) -> None:
    """`reload_weights` from another folder, into layers that gate."""
    other = engines.save_others("llama", tmp_path)
    with engines.engine(folders("llama")["sparseflow"], **FORMS["sparseflow"]) as llm:
        assert engines.tokens(llm) == engines.expected("llama", folders("llama")["2:4"])
        llm.collective_rpc("reload_weights", kwargs={"weights_path": str(tmp_path / "sparseflow")})
        assert engines.tokens(llm) == engines.expected("llama", other)
        assert len(engines.served(llm).gated) == 2


def test_two_ranks(folders, tmp_path) -> None:
    """In a process of its own, because vLLM starts one for each rank.

    Tensor parallel: pipeline parallel ends in vLLM's own scheduler on a CPU (0.32, dense models too).
    """
    script = (
        "import pathlib, sys, vllm_engines as engines\n"
        "if __name__ == '__main__':\n"
        "    options = {'additional_config': {'sparseflow': {'policy': 'sparse'}}}\n"
        "    two = {'tensor_parallel_size': 2, 'distributed_executor_backend': 'mp'}\n"
        "    with engines.engine(pathlib.Path(sys.argv[1]), **options, **two) as llm:\n"
        "        print('tokens', engines.tokens(llm))\n"
    )
    file = tmp_path / "two_ranks.py"
    file.write_text(script)
    # As many cores as ranks, none kept free.
    cores = {"VLLM_CPU_OMP_THREADS_BIND": "0|1", "VLLM_CPU_NUM_OF_RESERVED_CPU": "0"}
    environment = {**os.environ, **cores, "PYTHONPATH": str(ROOT / "test"), "OMP_NUM_THREADS": "1"}
    run = subprocess.run(
        [sys.executable, str(file), str(folders("llama")["saved"])],
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    expected = engines.expected("llama", folders("llama")["2:4"])
    assert f"tokens {expected}" in run.stdout, run.stderr[-4000:]


def test_models_of_others_are_as_without_us(folders) -> None:
    """A dense model's configuration, modules and tokens, with the plugin and without."""
    found = []
    for plugins in ("sparseflow", ""):
        run = subprocess.run(
            [sys.executable, "-c", _DENSE, str(folders("llama")["dense"])],
            env={**os.environ, "VLLM_PLUGINS": plugins, "PYTHONPATH": str(ROOT / "test")},
            capture_output=True,
            text=True,
            timeout=600,
            check=True,
        )
        found.append([line for line in run.stdout.splitlines() if line.startswith("found ")])
    assert "method sparseflow" in found[0][0]
    assert "method absent" in found[1][0]
    assert found[0][1:] == found[1][1:]
    assert len(found[0]) == 4


_DENSE = """
import pathlib, sys, vllm_engines as engines
from vllm.model_executor.layers.quantization import QUANTIZATION_METHODS
with engines.engine(pathlib.Path(sys.argv[1])) as llm:
    config = llm.llm_engine.vllm_config
    known = "sparseflow" in QUANTIZATION_METHODS
    print("found method", "sparseflow" if known else "absent")
    print("found hash", config.compute_hash())
    kinds = []
    runner = llm.llm_engine.model_executor.driver_worker.worker.model_runner
    for name, module in runner.model.named_modules():
        kinds.append((name, type(module).__name__, type(getattr(module, "quant_method", module)).__name__))
    print("found modules", kinds)
    print("found tokens", engines.tokens(llm))
"""


def test_a_truncated_file_is_refused(folders, tmp_path) -> None:
    import shutil

    folder = tmp_path / "truncated"
    shutil.copytree(folders("llama")["saved"], folder)
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(Exception, match=r"[Ss]afetensors|header|incomplete"), engines.engine(folder):
        pass
