"""Evaluate the cost of pruning: perplexity, agreement with the dense model, embeddings."""

from sparseflow.evaluation.audit import AuditOptions, AuditReport, audit
from sparseflow.evaluation.embeddings import EmbeddingScores, compare_embeddings, embed
from sparseflow.evaluation.evaluation_report import EvaluationReport
from sparseflow.evaluation.language import Agreement, Perplexity, agreement, perplexity
from sparseflow.evaluation.windows import Window, as_tokens, read_tokens, windows

__all__ = [
    "Agreement",
    "AuditOptions",
    "AuditReport",
    "EmbeddingScores",
    "EvaluationReport",
    "Perplexity",
    "Window",
    "agreement",
    "as_tokens",
    "audit",
    "compare_embeddings",
    "embed",
    "perplexity",
    "read_tokens",
    "windows",
]
