"""Tensors of torch and models of transformers with packed layers, on a GPU."""

import copy
from pathlib import Path

import pytest
import torch
from gpu_weights import pruned
from torch.sparse import SparseSemiStructuredTensorCUSPARSELT, SparseSemiStructuredTensorCUTLASS

import sparseflow as sf
from sparseflow.integrations.torch import from_semi_structured, to_semi_structured
from sparseflow.nn import prepare, sparsify

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.filterwarnings("ignore:The PyTorch API of SparseSemiStructuredTensor"),
]
KINDS = {"cutlass": SparseSemiStructuredTensorCUTLASS, "cusparselt": SparseSemiStructuredTensorCUSPARSELT}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("layout", KINDS)
def test_torchs_tensors_come_in_and_go_out_exactly(layout, dtype):
    dense = pruned(256, 512, dtype)
    theirs = KINDS[layout].from_dense(dense)
    packed = from_semi_structured(theirs)
    assert packed.values.is_cuda
    assert torch.equal(packed.unpack(), dense)
    made = to_semi_structured(sf.compress_2_4(dense), layout)
    assert torch.equal(made.packed, theirs.packed)
    if layout == "cutlass" and torch.cuda.get_device_capability()[0] != 8:
        return  # torch multiplies by it on sm_8x only
    x = torch.randn(64, 512, dtype=dtype, device="cuda")
    expected = torch.nn.functional.linear(x, dense)
    torch.testing.assert_close(torch.nn.functional.linear(x, made), expected, rtol=2e-2, atol=0.2)


def llama(**options):
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        hidden_size=512,
        intermediate_size=1024,
        num_hidden_layers=2,
        num_attention_heads=8,
        vocab_size=256,
        tie_word_embeddings=False,
        **options,
    )
    return transformers.LlamaForCausalLM(config).to(torch.bfloat16).eval()


@pytest.mark.parametrize("packed", [False, True])
def test_a_model_loads_onto_the_gpu_generates_and_saves_the_portable_form(tmp_path: Path, packed):
    from transformers import AutoModelForCausalLM

    from sparseflow.checkpoints import Checkpoint
    from sparseflow.integrations.transformers import SparseFlowConfig

    dense = llama()
    dense.save_pretrained(tmp_path / "dense")
    config = SparseFlowConfig(policy="sparse")
    options = {"device_map": "cuda", "dtype": torch.bfloat16}
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "dense", quantization_config=config, **options)
    if packed:
        model.save_pretrained(tmp_path / "packed")
        model = AutoModelForCausalLM.from_pretrained(tmp_path / "packed", **options)
    sf.prune(dense)
    weight = model.model.layers[0].mlp.up_proj.weight
    assert weight.positions.dim() == 1
    assert torch.equal(weight.unpack().cpu(), dense.model.layers[0].mlp.up_proj.weight)
    ids = torch.arange(12, device="cuda").reshape(2, 6)
    with torch.no_grad():
        torch.testing.assert_close(model(ids).logits, dense.cuda()(ids).logits, rtol=5e-2, atol=5e-2)
    assert model.generate(ids, max_new_tokens=4, do_sample=False, pad_token_id=0).shape == (2, 10)
    model.save_pretrained(tmp_path / "again")
    state = Checkpoint(tmp_path / "again").state_dict()
    assert all(torch.equal(tensor.cpu(), state[name]) for name, tensor in dense.state_dict().items())


@torch.no_grad()
def test_layers_move_between_devices():
    layer = torch.nn.Linear(640, 384, dtype=torch.bfloat16)
    model = torch.nn.Sequential(layer)
    sparsify(model, policy="sparse")
    x = torch.randn(4, 640, dtype=torch.bfloat16)
    expected = model(x)
    model[0].policy = "auto"
    model.cuda()
    assert prepare(model) == 1
    torch.testing.assert_close(model(x.cuda()).cpu(), expected, rtol=2e-2, atol=2e-2)
    torch.testing.assert_close(model.cpu()(x), expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("k", [512, 500])
def test_gradients_flow_through_packed_layers(dtype, k):
    dense = torch.nn.Linear(k, 384, dtype=dtype, device="cuda")
    dense.weight.data = sf.prune_24(dense.weight.data)
    sparse = torch.nn.Sequential(copy.deepcopy(dense))
    assert sparsify(sparse, policy="sparse").replaced == ["0"]
    sparse[0].bias.requires_grad_()
    x = torch.randn(3, 5, k, dtype=dtype, device="cuda")
    found = []
    for layer in (sparse[0], dense):
        leaf = x.clone().requires_grad_()
        layer(leaf).float().tanh().square().sum().backward()
        found.append((leaf.grad, layer.bias.grad))
    for got, expected in zip(*found, strict=True):
        torch.testing.assert_close(got, expected, rtol=5e-2, atol=5e-2)
