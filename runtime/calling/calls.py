"""Canonical form of calls, in which `f(x)` equals `f(input=x)`."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from sparseflow.runtime.calling.cache_names import known_name, other_cache_names
from sparseflow.runtime.calling.carried import STATE, State
from sparseflow.runtime.calling.structure import Flat, flatten

_NAMED = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


@dataclass(frozen=True)
class CallSignature:
    """The parameters of a model's `forward`.

    Attributes:
        names: parameters that may be passed by keyword, in order.
        positional: how many of them, counted from the front, may be passed by position too.
        aliases: further names under which the cache may be passed.
    """

    names: tuple[str, ...]
    positional: int
    aliases: frozenset[str] = frozenset()

    @classmethod
    def of(cls, function: Callable[..., object]) -> CallSignature:
        """Read a signature; with `*args` or positional-only parameters, positions are kept."""
        parameters = list(inspect.signature(function).parameters.values())
        names = tuple(p.name for p in parameters if p.kind in _NAMED)
        kinds = {p.kind for p in parameters}
        aliases = other_cache_names(getattr(function, "__self__", None), names)
        if kinds & {inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.POSITIONAL_ONLY}:
            return cls(names, 0, aliases)
        count = sum(p.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD for p in parameters)
        return cls(names, count, aliases)

    def canonical(
        self, args: Sequence[object], kwargs: Mapping[str, object]
    ) -> tuple[tuple[object, ...], dict[str, object]]:
        """Return the call with named arguments passed by keyword, in the order of the signature."""
        if not self.aliases.isdisjoint(kwargs):
            kwargs = self._with_cache_renamed(kwargs)
        count = min(len(args), self.positional)
        named = dict(zip(self.names, args[:count], strict=False))
        if clash := named.keys() & kwargs.keys():
            raise TypeError(f"forward() got multiple values for argument {min(clash)!r}")
        named.update(kwargs)
        if len(named) > 1:
            ordered = {name: named.pop(name) for name in self.names if name in named}
            named = ordered | dict(sorted(named.items()))
        return tuple(args[count:]), named

    def _with_cache_renamed(self, kwargs: Mapping[str, object]) -> dict[str, object]:
        renamed: dict[str, object] = {}
        for name, value in kwargs.items():
            known = known_name(name, self.names)
            if known in renamed:
                raise TypeError(f"forward() got multiple values for argument {known!r}")
            renamed[known] = value
        return renamed

    def flatten(
        self, args: Sequence[object], kwargs: Mapping[str, object], state: State | None = None
    ) -> Flat:
        """Flatten the arguments of a call and the attributes that it carries."""
        call = self.canonical(args, kwargs)
        if state is not None:
            call[1][STATE] = state
        return flatten(call)
