"""Sum up the costs of compiling so far, for the report."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sparseflow.compiler.build import Program

_STAGES = {
    "capture": ("export", "import"),
    "passes": ("passes",),
    "measure": ("measure",),
    "lowering": ("lowering",),
    "pack": ("pack",),
}


def compilations(programs: Sequence[Program]) -> dict[str, object]:
    """Return the costs of all programs: seconds by part, inductor's compilations, and CUDA graphs.

    Returns:
        ``seconds`` by part; ``inductor`` with ``compiles``, ``recompiles`` (those after a program's first)
        and ``seconds``; ``cuda_graphs`` with ``recordings``, ``replays``, ``seconds``, ``without``, the
        reasons why programs have none although the mode requests or allows them, and ``decisions``: which
        calls of a program that records by itself are recorded, by what times, and which are not, and why.
    """
    seconds = {
        part: sum(program.seconds.get(stage, 0.0) for program in programs for stage in stages)
        for part, stages in _STAGES.items()
    }
    compiled = [p.runner.inductor.seconds for p in programs if p.runner.inductor is not None]
    graphs = [p.runner.graphs for p in programs if p.runner.graphs is not None]
    refusals = [p.runner.without_graphs for p in programs] + [g.refusal for g in graphs]
    return {
        "seconds": seconds,
        "inductor": {
            "compiles": sum(map(len, compiled)),
            "recompiles": sum(max(0, len(times) - 1) for times in compiled),
            "seconds": sum(map(sum, compiled)),
        },
        "cuda_graphs": {
            "recordings": sum(len(g.seconds) for g in graphs),
            "replays": sum(g.replays for g in graphs),
            "seconds": sum(sum(g.seconds) for g in graphs),
            "without": sorted({why for why in refusals if why}),
            "decisions": [said for g in graphs if g.chooser is not None for said in g.chooser.said],
        },
    }
