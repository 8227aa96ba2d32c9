"""Import the parts of transformers that quantizers need; refuse if it is missing or too old."""

from __future__ import annotations

from sparseflow.integrations.transformers.versions import import_refusal, require_transformers

_SUBJECT = "SparseFlowConfig"

require_transformers(_SUBJECT)
try:
    from transformers.core_model_loading import ConversionOps, WeightConverter, WeightRenaming
    from transformers.quantizers.auto import AUTO_QUANTIZATION_CONFIG_MAPPING, AUTO_QUANTIZER_MAPPING
    from transformers.quantizers.base import HfQuantizer
    from transformers.utils.quantization_config import QuantizationConfigMixin
except ImportError as error:
    raise import_refusal(_SUBJECT, error) from None

__all__ = [
    "AUTO_QUANTIZATION_CONFIG_MAPPING",
    "AUTO_QUANTIZER_MAPPING",
    "ConversionOps",
    "HfQuantizer",
    "QuantizationConfigMixin",
    "WeightConverter",
    "WeightRenaming",
]
