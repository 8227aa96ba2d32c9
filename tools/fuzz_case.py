"""A case of `fuzz_compile.py`: a module and what is done with it, as Python text."""

from __future__ import annotations

from dataclasses import dataclass

SECTIONS = ("module", "prepare", "reference", "compile", "steps")


@dataclass(frozen=True)
class Case:
    """A module and what is done with it, each part as Python text.

    Attributes:
        module: defines `Model`.
        prepare: what is done to `model` before it is compiled.
        reference: what is done to the eager model alone: the pruning that compiling does.
        compile: an expression: what stands in for `model`.
        steps: statements in which `call(…)` is a call of that.
    """

    module: str
    prepare: str
    reference: str
    compile: str
    steps: str

    def text(self) -> str:
        """All of it, as `parse` reads it."""
        return "".join(f"# --- {name}\n{getattr(self, name).strip()}\n" for name in SECTIONS)

    @classmethod
    def parse(cls, text: str) -> Case:
        """Read what `text` wrote; comments before the first part are left out."""
        parts = dict.fromkeys(SECTIONS, "")
        for part in text.split("# --- ")[1:]:
            name, _, content = part.partition("\n")
            parts[name.strip()] = content
        return cls(**parts)


def statements(text: str) -> list[str]:
    """The statements of a text, each with what is indented under it."""
    found: list[str] = []
    for line in text.splitlines():
        if line.strip() and not line.strip().startswith("#"):
            if line[0].isspace() and found:
                found[-1] += f"\n{line}"
            else:
                found.append(line)
    return found
