"""Constants of the Torch dialect as Python values."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.fx.node import Argument
from torch_mlir import ir


def _integer(op: ir.Operation) -> int:
    return int(ir.IntegerAttr(op.attributes["value"]).value)


CONSTANTS: dict[str, Callable[[ir.Operation], Argument]] = {
    "torch.constant.none": lambda op: None,
    "torch.constant.int": _integer,
    "torch.constant.bool": lambda op: bool(_integer(op)),
    "torch.constant.float": lambda op: float(ir.FloatAttr(op.attributes["value"]).value),
    "torch.constant.str": lambda op: ir.StringAttr(op.attributes["value"]).value,
    "torch.constant.device": lambda op: torch.device(ir.StringAttr(op.attributes["value"]).value),
}
"""Returns the Python value of a constant operation, by the operation's name."""
