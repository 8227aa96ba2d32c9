"""The errors that SparseFlow raises. Every one names its subject, the rule and the way out."""

from __future__ import annotations


class SparseFlowError(Exception):
    """Base of every error that SparseFlow raises on purpose.

    Args:
        subject: what the error is about: a layer, a pass, an argument, a file.
        rule: what was required and what was found instead.
        remedy: what the caller can do about it.
    """

    def __init__(self, subject: str, rule: str, remedy: str = "") -> None:
        super().__init__(subject, rule, remedy)
        self.subject = subject
        self.rule = rule
        self.remedy = remedy

    def __str__(self) -> str:
        text = f"{self.subject}: {self.rule}"
        return f"{text}\n  → {self.remedy}" if self.remedy else text


class ArgumentError(SparseFlowError, ValueError):
    """An argument of a public function has a wrong dtype, shape, device or value."""


class MissingDependencyError(SparseFlowError, ImportError):
    """A package that an extra of SparseFlow installs is not there."""


class WeightError(SparseFlowError, ValueError):
    """A weight can't be pruned or packed: NaN or Inf, or not 2:4 where 2:4 was claimed."""


class CalibrationError(SparseFlowError, ValueError):
    """Calibration data is refused by the model, or gives statistics that nothing can be pruned by."""


class FinetuneError(SparseFlowError):
    """Finetuning went astray: the loss is not finite."""


class EvaluationError(SparseFlowError):
    """A model's outputs can't be scored: they are not finite, or not what the measure reads."""


class InferenceOnlyError(SparseFlowError):
    """A compiled model was asked for gradients or is in training mode."""


class CaptureError(SparseFlowError):
    """torch.export could not capture the model."""


class FrontendError(SparseFlowError):
    """A captured program could not be brought into MLIR."""


class PassError(SparseFlowError):
    """A pass or a pipeline is unknown, misconfigured, or failed."""


class ParseError(SparseFlowError):
    """A file or text is not MLIR that can be read."""


class LoweringError(SparseFlowError):
    """An operation has no executable counterpart."""


class NativeLibraryError(SparseFlowError):
    """The native library is missing or doesn't load."""


class DispatchTableError(SparseFlowError):
    """A table of measurements is unreadable, foreign or of another version."""


class TuningError(SparseFlowError):
    """The process that measures can't be kept alive, or does not measure what was asked for."""


class ProfileError(SparseFlowError):
    """A profile holds nothing to tell."""


class ArtifactError(SparseFlowError):
    """A saved artifact is truncated, tampered with, of a newer version or foreign, or can't be written."""


class CheckpointError(SparseFlowError):
    """A checkpoint is incomplete, malformed or in a format that isn't read, or can't be written."""


class SparseFlowWarning(UserWarning):
    """Base of every warning that SparseFlow gives."""


class UntestedVersionWarning(SparseFlowWarning):
    """A library is of a version that SparseFlow was not tested with."""


class DenseWarning(SparseFlowWarning):
    """A method of a compiled model runs layers as they were before compiling."""


class EagerGraphWarning(SparseFlowWarning):
    """A graph of torch.compile can't be compiled by SparseFlow and runs eagerly."""


class UnprunedWarning(SparseFlowWarning):
    """A model was compiled none of whose weights is 2:4, and nothing was to prune them."""


class QualityWarning(SparseFlowWarning):
    """Pruning cost more quality than it had to, or is likely to."""


class FormatWarning(SparseFlowWarning):
    """Layers can't be stored in the weight format that was asked for, and stay dense."""


class SlowerWarning(SparseFlowWarning):
    """A compiled model was measured to be slower than the dense one, or runs slower than it could."""
