"""The mutable values that were copied, and the attributes of modules that hold them."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from sparseflow.frontend.state.contents import Content, content

TABLES = ("_parameters", "_buffers", "_modules")


@dataclass(frozen=True, eq=False)
class Owner:
    """The attribute of a model that holds a value.

    Attributes:
        module: of the user's model.
        path: its path, as a user would write it: ``Model.layers.0.memory``; the module's, if it is none.
        name: the attribute; empty for the module itself.
    """

    module: nn.Module
    path: str
    name: str = ""


@dataclass
class Node:
    """A copied mutable value.

    Attributes:
        path: its path, as a user would write it: ``Model.layers.0.memory['last']``.
        owner: the attribute through which it was reached first.
        value: the copy.
        before: what it held.
        shared: whether it was reached through another attribute too.
    """

    path: str
    owner: Owner
    value: object
    before: Content
    shared: bool = False

    def now(self) -> Content:
        """Return its current contents."""
        return content(self.value)
