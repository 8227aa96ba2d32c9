"""Tiny models in folders, in fp8, as others write them."""

import json

import torch
from safetensors.torch import save_file

from sparseflow.runtime import fp8

E4M3 = torch.float8_e4m3fn


def scale_of(weight, strategy, block):
    """The scales that llm-compressor's observer finds."""
    wide = weight.float().abs()
    if strategy == "tensor":
        return wide.max().reshape(1) / 448
    if strategy == "channel":
        return wide.amax(1, keepdim=True) / 448
    n, k = block
    return wide.reshape(len(wide) // n, n, -1, k).amax((1, 3)) / 448


def save_as_llm_compressor(model, folder, strategy, static=False, sparse=False):
    """As llm-compressor saves a quantised model; returns the weights that it stands for."""
    # The versions that vLLM takes have no sparse forms any more.
    from compressed_tensors.compressors import ModelCompressor
    from compressed_tensors.config import Sparse24BitMaskConfig
    from compressed_tensors.quantization import (
        QuantizationArgs,
        QuantizationConfig,
        QuantizationScheme,
        apply_quantization_config,
    )

    block = (16, 32) if strategy == "block" else None
    weights = QuantizationArgs(
        num_bits=8, type="float", strategy=strategy, symmetric=True, block_structure=block and list(block)
    )
    inputs = QuantizationArgs(num_bits=8, type="float", strategy="tensor", dynamic=not static)
    scheme = QuantizationScheme(targets=["Linear"], weights=weights, input_activations=inputs)
    config = QuantizationConfig(
        config_groups={"group_0": scheme}, format="float-quantized", ignore=["lm_head"]
    )
    apply_quantization_config(model, config)
    meant = {}
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear) and name != "lm_head":
            scale = scale_of(module.weight, strategy, block)
            module.weight_scale.data = scale.to(module.weight_scale.dtype).reshape(module.weight_scale.shape)
            if static:
                module.input_scale.data.fill_(0.5)
            factor = module.weight_scale.detach()
            if block:
                factor = factor.repeat_interleave(block[0], 0).repeat_interleave(block[1], 1)
            rounded = (
                (module.weight.detach() / factor).clamp(-448, 448).to(E4M3)
            )  # all in bfloat16, as theirs
            meant[f"{name}.weight"] = rounded.float() * factor.float()
    sparsity = Sparse24BitMaskConfig(targets=["Linear"], ignore=["lm_head"]) if sparse else None
    compressor = ModelCompressor(sparsity_config=sparsity, quantization_config=config)
    state = compressor.compress(model, model.state_dict())
    model.save_pretrained(folder, state_dict=state, save_original_format=False)
    compressor.update_config(folder)
    return meant


def blocked(folder, model, block, suffix="_scale_inv", size=None):
    """Save as transformers' FineGrainedFP8 does; returns values and scales."""
    state, parts = {}, {}
    for name, tensor in model.state_dict().items():
        if tensor.dim() < 2 or "proj" not in name:
            state[name] = tensor
            continue
        n, k = block
        rows, columns = (-(-tensor.shape[dim] // block[dim]) for dim in (0, 1))
        wide = torch.zeros(rows * n, columns * k)
        wide[: tensor.shape[0], : tensor.shape[1]] = tensor.float()
        scale = wide.reshape(rows, n, columns, k).abs().amax((1, 3)) / 448
        factor = scale.repeat_interleave(n, 0).repeat_interleave(k, 1)
        factor = factor[: tensor.shape[0], : tensor.shape[1]]
        parts[name] = (tensor.float() / factor).to(E4M3), scale, factor
        state[name], state[name + suffix] = parts[name][:2]
    model.save_pretrained(folder)
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    declare(folder, quant_method="fp8", activation_scheme="dynamic", weight_block_size=size or list(block))
    return parts


def declare(folder, **declared):
    path = folder / "config.json"
    config = json.loads(path.read_text()) | {"quantization_config": declared, "dtype": "bfloat16"}
    path.write_text(json.dumps(config))


def save_as_torchao(model, folder):
    """Save in the layout of torchao.prototype.safetensors; returns the weights that it stands for."""
    state, metadata, meant = {}, {}, {}
    for name, tensor in model.state_dict().items():
        if "proj" not in name or tensor.dim() < 2:
            state[name], metadata[name] = tensor, json.dumps({"_type": "Tensor"})
            continue
        values, scale = fp8.quantize_rows(tensor)
        prefix = name.removesuffix("weight") + "_weight_"
        state |= {prefix + "qdata": values, prefix + "scale": scale}
        data = {"block_size": [1, tensor.shape[1]], "mm_config": None, "dtype": "torch.bfloat16"}
        parts = ["qdata", "scale"]
        metadata[name] = json.dumps({"_type": "Float8Tensor", "_data": data, "_tensor_data_names": parts})
        meant[name] = (values.float() * scale).bfloat16()
    metadata["tensor_names"] = json.dumps(list(model.state_dict()))
    model.save_pretrained(folder)
    save_file(state, folder / "model.safetensors", metadata)
    declare(folder, quant_method="torchao", quant_type={"default": {"_type": "Float8WeightOnlyConfig"}})
    return meant
