"""Serialise torch.fx programs: operators by name, arguments as JSON, weights by reference."""

from __future__ import annotations

import operator
from collections.abc import Callable

import torch
from torch import fx, nn
from torch._ops import OpOverload
from torch.fx.node import Argument

from sparseflow.errors import ArtifactError
from sparseflow.runtime.artifact.class_lookup import ClassLookup
from sparseflow.runtime.artifact.values import Decoder, encode, identifier, require
from sparseflow.runtime.assemble import assemble
from sparseflow.runtime.scalars import SCALAR_FUNCTIONS, scalar_operator_name
from sparseflow.support.documents import Document

Place = tuple[str, str]
"""A tensor of an artifact: the name of its weight, and which of its buffers, ``""`` for a plain tensor."""

_ASSERTIONS = frozenset(
    (
        torch.ops.aten._assert_async.default,
        torch.ops.aten._assert_async.msg,
        torch.ops.aten._assert_scalar.default,
    )
)
"""They return nothing and raise what the model would."""
_NAMESPACES = ("aten", "sparseflow")


def encode_graph(graph: fx.GraphModule, place: Callable[[fx.GraphModule, str], Place]) -> dict[str, object]:
    """Encode the nodes of a program as JSON.

    Args:
        graph: as `to_fx` made it.
        place: maps the graph's name of a tensor to its place in the artifact.

    Raises:
        ArtifactError: an operator or argument can't be serialised.
    """
    numbers = {node: i for i, node in enumerate(graph.graph.nodes)}

    def reference(value: object) -> object:
        return {"node": numbers[value]} if isinstance(value, fx.Node) else None

    nodes: list[object] = []
    for node in graph.graph.nodes:
        if node.op == "placeholder":
            nodes.append("input")
        elif node.op == "get_attr":
            nodes.append({"weight": list(place(graph, str(node.target)))})
        elif node.op == "call_function":
            args, kwargs = (
                [encode(value, reference) for value in v] for v in (node.args, node.kwargs.values())
            )
            nodes.append([operator_name(node.target), args, dict(zip(node.kwargs, kwargs, strict=True))])
    return {"nodes": nodes, "outputs": [encode(value, reference) for value in _outputs(graph)]}


def _outputs(graph: fx.GraphModule) -> tuple[object, ...]:
    (output,) = (node for node in graph.graph.nodes if node.op == "output")
    return tuple(output.args[0])


def operator_name(target: object) -> str:
    """Return the name by which `find_operator` finds a node's target.

    Raises:
        ArtifactError: there is no such name.
    """
    scalar = scalar_operator_name(target)
    name = "getitem" if target is operator.getitem else f"sym.{scalar}" if scalar else str(target)
    try:
        find_operator(name)
    except ValueError as error:
        raise ArtifactError(f"operator {name}", f"can't be part of an artifact: {error}") from None
    return name


def find_operator(name: object) -> Callable[..., object]:
    """Find an operator by name; only pure computations on arguments are allowed.

    Raises:
        ValueError: there is none, or it may have side effects.
    """
    if name == "getitem":
        return operator.getitem
    namespace, _, rest = require(name, str).partition(".")
    if namespace == "sym" and rest in SCALAR_FUNCTIONS:
        return SCALAR_FUNCTIONS[rest]
    packet_name, _, overload_name = rest.partition(".")
    packet = getattr(getattr(torch.ops, namespace), packet_name, None) if namespace in _NAMESPACES else None
    overload = getattr(packet, overload_name, None)
    if not isinstance(overload, OpOverload):
        raise ValueError(f"torch {torch.__version__} has no operator {name!r:.80} for artifacts")
    if not _only_computes(overload):
        raise ValueError(f"operator {name} does more than compute")
    return overload


def _only_computes(overload: OpOverload) -> bool:
    """Return whether an operator only touches its arguments; some of aten read files, for example."""
    if overload in _ASSERTIONS:
        return True
    schema = overload._schema
    if any("file" in argument.name for argument in schema.arguments):
        return False
    if overload.namespace == "aten":
        return bool(schema.returns)
    given, made = ({str(value.type) for value in values} for values in (schema.arguments, schema.returns))
    return "Tensor" in given and made == {"Tensor"}


def decode_graph(
    data: Document,
    kinds: ClassLookup,
    devices: Callable[[str], torch.device],
    resolve: Callable[[str, str], nn.Module | torch.Tensor],
) -> fx.GraphModule:
    """Decode a program.

    Args:
        data: its JSON.
        kinds: finds classes.
        devices: maps the artifact's devices to local ones.
        resolve: returns the tensor at a place, or the packed weight that holds it.

    Raises:
        KeyError, TypeError, ValueError: the data is malformed.
    """
    graph, root = fx.Graph(), nn.Module()
    nodes: list[fx.Node] = []
    values = Decoder(kinds, devices, {"node": lambda i: nodes[require(i, int)]})
    argument: Callable[[object], Argument] = values.decode
    for i, item in enumerate(require(data["nodes"], list)):
        if item == "input":
            node = graph.placeholder(f"input_{i}")
        elif isinstance(item, dict):
            node = graph.get_attr(_attach(root, resolve, *item["weight"]))
        else:
            name, args, kwargs = item
            target = find_operator(name)
            arguments = tuple(map(argument, require(args, list)))
            keywords = {identifier(key): argument(value) for key, value in kwargs.items()}
            node = graph.create_node("call_function", target, arguments, keywords, name=_node_name(name))
        nodes.append(node)
    graph.output(tuple(map(argument, require(data["outputs"], list))))
    return assemble(root, graph, "Loaded")


def _node_name(operator: str) -> str:
    return operator.split(".")[1] if "." in operator else operator


def _attach(
    root: nn.Module, resolve: Callable[[str, str], nn.Module | torch.Tensor], name: str, buffer: str
) -> str:
    """Attach a weight to `root` once and return its tensor's name there."""
    found = resolve(name, buffer)
    if name not in root._modules and name not in root._buffers:
        if hasattr(root, identifier(name)):
            raise ValueError(f"{name!r:.80} isn't a weight name")
        if isinstance(found, nn.Module):
            root.add_module(name, found)
        else:
            root.register_buffer(name, found)
    return f"{name}.{buffer}" if buffer else name
