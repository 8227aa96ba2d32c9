"""Checks of arguments shared by several public functions."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Literal, get_args

from sparseflow.errors import ArgumentError

if TYPE_CHECKING:
    from torch import nn

Prune = Literal["magnitude"]
PolicyMode = Literal["auto", "sparse"]

Memory = Literal["auto", "compressed", "fast"]
"""Whether packed weights have dense copies beside them: ``compressed`` never, ``fast`` wherever dense is
faster for some M, ``auto`` where some M would lose without and the copy buys enough."""

Queries = Literal["few", "any"]
"""Attention of how many queries over a cache is an operator of ours: 16 at most, or any number."""

Tune = Literal["quick", "full", "off"]
"""What is measured of a GPU before layers run sparse there: a few candidates for what no table has
(seconds), all of them for what was not tuned so (minutes), or nothing."""

MEMORY_MODES: tuple[Memory, ...] = get_args(Memory)

QUERIES: tuple[Queries, ...] = get_args(Queries)

_ADAPTERS = (
    "*lora_*",  # LoRA and what derives from it: GraLoRA, X-LoRA, AdaLoRA, supertuning
    *("*.hada_*", "*.hira_*", "*.lily_*", "*.miss_block.*", "*.peanut_*", "*.shadow_*"),
    "prompt_encoder.*",
)
"""The weights of PEFT's adapters that are multiplied by as those of linear layers are; its others aren't."""

HEADS: tuple[str, ...] = ("lm_head", "*.lm_head")
"""What language models call the layer that makes logits; with ``lm_head`` it has a format of its own."""

DEFAULT_SKIP: tuple[str, ...] = (*HEADS, "*embed*", *_ADAPTERS)
"""Layers that stay dense unless ``skip_defaults=False``.

Pruning heads and embeddings costs most quality; adapters are small, and trained to be just what they are.
The layer under an adapter, such as ``q_proj.base_layer``, is pruned like any other.
"""


def require_one_of(function: str, name: str, value: object, allowed: Sequence[object]) -> None:
    """Refuse a value of the option `name` of ``sf.<function>`` that isn't allowed.

    Raises:
        ArgumentError: it isn't; the error lists the allowed values.
    """
    if value not in allowed:
        raise ArgumentError(
            f"sf.{function}({name}={value!r})",
            f"{name} must be one of {', '.join(map(repr, allowed))}",
            f"pass one of them, or leave {name} out",
        )


def require_patterns(function: str, skip: object) -> None:
    """Refuse an option `skip` of ``sf.<function>`` that is no sequence of patterns.

    Raises:
        ArgumentError: it is none.
    """
    if isinstance(skip, str) or not isinstance(skip, Sequence) or not all(isinstance(p, str) for p in skip):
        raise ArgumentError(
            f"sf.{function}(skip={skip!r})",
            "skip must be a sequence of fnmatch patterns over layer names",
            'for example skip=("classifier", "*.down_proj")',
        )


def with_defaults(skip: Sequence[str], skip_defaults: bool) -> tuple[str, ...]:
    """Return the patterns of `skip`, with those of `DEFAULT_SKIP` if requested."""
    return (*DEFAULT_SKIP, *skip) if skip_defaults else tuple(skip)


def require_matches(function: str, skip: Iterable[str], model: nn.Module, *, option: str = "skip") -> None:
    """Refuse a pattern of `option` of ``sf.<function>`` that matches no layer of a model.

    Those of `DEFAULT_SKIP` need not match: few models have all of these layers.

    Raises:
        ArgumentError: one matches none; the error names it and layers of similar names.
    """
    parameters = (name.removesuffix(".weight") for name, _ in model.named_parameters(remove_duplicate=False))
    names = dict.fromkeys([*parameters, *(name for name, _ in model.named_modules(remove_duplicate=False))])
    for pattern in skip:
        if pattern in DEFAULT_SKIP or any(fnmatchcase(name, pattern) for name in names):
            continue
        plain = pattern.strip("*.")
        near = difflib.get_close_matches(plain, names, n=3, cutoff=0.5) or [n for n in names if n][:3]
        raise ArgumentError(
            f"sf.{function}({option}=({pattern!r},))",
            f"{pattern!r} matches no layer of {type(model).__name__}; it has {', '.join(near)}, …",
            "patterns are those of fnmatch, over whole names: '*.down_proj'",
        )
