"""What of transformers its quantizers are made of, or the refusal where it is missing or too old."""

from __future__ import annotations

from sparseflow.integrations.transformers.library import library, missing

_SUBJECT = "SparseFlowConfig"

library(_SUBJECT)
try:
    from transformers.core_model_loading import ConversionOps
    from transformers.quantizers.auto import register_quantization_config, register_quantizer
    from transformers.quantizers.base import HfQuantizer
    from transformers.utils.quantization_config import QuantizationConfigMixin
except ImportError as error:
    raise missing(_SUBJECT, error) from None

__all__ = [
    "ConversionOps",
    "HfQuantizer",
    "QuantizationConfigMixin",
    "register_quantization_config",
    "register_quantizer",
]
