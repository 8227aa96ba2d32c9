"""What torch notes beside a trace: records for TORCH_TRACE reach their handler, no memory formats."""

from __future__ import annotations

import logging

import torch
from torch import nn
from torch.fx.experimental import proxy_tensor

from sparseflow.frontend import capture


class Kept(logging.Handler):
    """Like torch's own handler without TORCH_TRACE: it asks for no more records once it saw one."""

    def __init__(self) -> None:
        super().__init__()
        self.seen = 0

    def emit(self, record: logging.LogRecord) -> None:
        self.seen += 1
        logging.getLogger("torch.__trace").removeHandler(self)


def test_the_first_record_of_a_trace_reaches_its_handler_and_is_the_last() -> None:
    kept = Kept()
    logging.getLogger("torch.__trace").addHandler(kept)
    capture(nn.Linear(4, 4).eval(), (torch.randn(2, 4),))
    assert kept.seen == 1


def test_no_node_has_a_memory_format_and_torch_notes_them_again_afterwards() -> None:
    extract = proxy_tensor._extract_tensor_metadata
    captured = capture(nn.Linear(4, 4).eval(), (torch.randn(2, 4),))
    noted = [node.meta["tensor_meta"] for node in captured.exported.graph.nodes if "tensor_meta" in node.meta]
    assert noted
    assert {meta.memory_format for meta in noted} == {None}
    assert proxy_tensor._extract_tensor_metadata is extract
