"""An audit of a pruned language model: its weights, its perplexity, and what it still answers."""

from sparseflow.evaluation.audit.auditing import AuditOptions, AuditReport, audit

__all__ = ["AuditOptions", "AuditReport", "audit"]
