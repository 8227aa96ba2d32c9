"""What of transformers its quantizers are made of, or the refusal where it is missing or too old."""

from __future__ import annotations

from sparseflow.integrations.transformers.versions import library, missing

_SUBJECT = "SparseFlowConfig"

library(_SUBJECT)
try:
    from transformers.core_model_loading import ConversionOps, WeightRenaming
    from transformers.quantizers.auto import AUTO_QUANTIZATION_CONFIG_MAPPING, AUTO_QUANTIZER_MAPPING
    from transformers.quantizers.base import HfQuantizer
    from transformers.utils.quantization_config import QuantizationConfigMixin
except ImportError as error:
    raise missing(_SUBJECT, error) from None

__all__ = [
    "AUTO_QUANTIZATION_CONFIG_MAPPING",
    "AUTO_QUANTIZER_MAPPING",
    "ConversionOps",
    "HfQuantizer",
    "QuantizationConfigMixin",
    "WeightRenaming",
]
