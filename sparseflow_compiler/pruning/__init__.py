"""Prune a model's linear layers to 2:4 in place: magnitude, Wanda, RIA, SparseGPT."""

from sparseflow.pruning.budget_report import BudgetReport
from sparseflow.pruning.prune_report import PrunedLayer, PruneReport
from sparseflow.pruning.ria import ria
from sparseflow.pruning.sparsegpt import sparsegpt
from sparseflow.pruning.wanda import wanda
from sparseflow.pruning.whole_model import prune

__all__ = ["BudgetReport", "PruneReport", "PrunedLayer", "prune", "ria", "sparsegpt", "wanda"]
