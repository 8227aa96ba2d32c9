"""Serialise contracts and signatures of programs as JSON."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterable

import torch

from sparseflow.runtime.artifact.class_lookup import ClassLookup, qualified
from sparseflow.runtime.artifact.structures import (
    classes,
    decode_slot,
    decode_structure,
    encode_slot,
    encode_structure,
)
from sparseflow.runtime.artifact.values import Decoder, encode, identifier, require
from sparseflow.runtime.calling.ambient import Ambient
from sparseflow.runtime.calling.calls import CallSignature
from sparseflow.runtime.calling.contract import Contract, TensorSpec
from sparseflow.runtime.calling.gradients import GradientMode, TensorGradients
from sparseflow.runtime.calling.guards import DimRange, Place, ShapeGuards
from sparseflow.runtime.calling.signature import ObjectUpdate, Outputs, Result, ResultKind, Signature
from sparseflow.runtime.calling.structure import COUNTERS, Container, Structure
from sparseflow.support.documents import Document

_FUNCTIONS = frozenset(
    {"min", "max"}
    | {f"math.{name}" for name in ("ceil", "floor", "trunc", "sqrt")}
    | {f"torch.sym_{name}" for name in ("max", "min", "not", "float", "int", "ite")}
    | {"torch._sym_sqrt"}
)
_ARITHMETIC = (
    *(ast.Expression, ast.BoolOp, ast.BinOp, ast.UnaryOp, ast.Compare, ast.IfExp, ast.Load),
    *(ast.boolop, ast.cmpop, ast.Not, ast.USub, ast.Add, ast.Sub, ast.Mult, ast.Div, ast.FloorDiv, ast.Mod),
    ast.Pow,
)
_LONGEST = 20_000
_MOST_POWERS = 4
_LARGEST_POWER = 8


def encode_contract(contract: Contract, signature: Signature) -> dict[str, object]:
    """Encode a contract as JSON.

    Args:
        contract: of the captured program.
        signature: of the executed graph, which may do writes itself that the captured one returns.
    """
    guards = contract.guards
    return {
        "names": list(contract.names),
        "parameters": list(contract.call_signature.names),
        "ambient": _encode_ambient(contract.ambient),
        "positional": contract.call_signature.positional,
        "aliases": sorted(contract.call_signature.aliases),
        "tensors": [_encode_spec(spec) for spec in contract.tensors],
        "ranges": [[*allowed.place, allowed.low, allowed.high] for allowed in guards.ranges],
        "equal": [[*place, *other] for place, other in guards.equal],
        "symbols": {name: list(place) for name, place in guards.symbols.items()},
        "relations": list(guards.relations),
        "inputs": encode_structure(signature.inputs),
        "results": [[result.kind.name, result.target] for result in signature.results],
        "output": encode_structure(signature.outputs.structure),
        "updates": [[update.ordinal, encode_slot(update.state)] for update in signature.outputs.updates],
        "counters": _encode_counters([signature.inputs, signature.outputs.structure]),
    }


def decode_contract(data: Document, kinds: ClassLookup, devices: Callable[[str], torch.device]) -> Contract:
    """Decode a contract and register the counters of its objects.

    Raises:
        KeyError, TypeError, ValueError: the data is malformed.
    """
    values = Decoder(kinds, devices)
    names = _strings(data["names"])
    ranges = [DimRange(_place(leaf, dim), require(low, int), high if high is None else require(high, int))
              for leaf, dim, low, high in data["ranges"]]  # fmt: skip
    symbols = {identifier(name): _place(*place) for name, place in data["symbols"].items()}
    relations = [require_arithmetic(text, symbols) for text in _strings(data["relations"])]
    equal = [(_place(*pair[:2]), _place(*pair[2:])) for pair in data["equal"]]
    updates = (
        ObjectUpdate(require(i, int), _container(decode_slot(s, values, kinds))) for i, s in data["updates"]
    )
    signature = Signature(
        decode_structure(data["inputs"], values, kinds),
        tuple(Result(ResultKind[kind], target) for kind, target in data["results"]),
        Outputs(decode_structure(data["output"], values, kinds), tuple(updates)),
    )
    tensors = tuple(_decode_spec(spec, values) for spec in data["tensors"])
    if len(names) != len(tensors):
        raise ValueError(f"{len(tensors)} inputs have {len(names)} names")
    aliases = frozenset(_strings(data.get("aliases", [])))
    call = CallSignature(tuple(_strings(data["parameters"])), require(data["positional"], int), aliases)
    COUNTERS.update((kinds.plain(kind), require(name, str)) for kind, name in data["counters"])
    guards = ShapeGuards(ranges, equal, symbols, relations)
    return Contract(call, signature, tensors, guards, tuple(names), _ambient(data["ambient"], values))


def _encode_ambient(ambient: Ambient) -> list[object]:
    dtypes = (ambient.cpu, ambient.cuda, ambient.default)
    mode = ambient.gradients
    return [*map(encode, dtypes), None if mode is None else mode.name]


def _ambient(data: list[object], values: Decoder) -> Ambient:
    cpu, cuda, default = (values.decode(dtype) for dtype in data[:3])
    kinds = (torch.dtype, type(None))
    if not (isinstance(cpu, kinds) and isinstance(cuda, kinds) and isinstance(default, torch.dtype)):
        raise TypeError("the ambient state isn't made of dtypes")
    (mode,) = data[3:]
    return Ambient(cpu, cuda, default, None if mode is None else GradientMode[require(mode, str)])


def require_arithmetic(text: str, symbols: Iterable[str]) -> str:
    """Return a condition on sizes after checking that it is only arithmetic over its symbols.

    Raises:
        ValueError: it is anything else, or too long.
    """
    if len(text) > _LONGEST:
        raise ValueError("a condition is too long")
    known = frozenset(symbols)
    try:
        pending: list[ast.AST] = [ast.parse(text, mode="eval")]
    except (SyntaxError, MemoryError, RecursionError) as error:
        raise ValueError(f"the condition {text:.80} can't be read") from error
    powers = 0
    while pending:
        node = pending.pop()
        powers += isinstance(node, ast.Pow)
        if powers > _MOST_POWERS or not _is_arithmetic(node, known):
            raise ValueError(f"the condition {text:.80} isn't arithmetic")
        pending += node.args if isinstance(node, ast.Call) else ast.iter_child_nodes(node)
    return text


def _is_arithmetic(node: ast.AST, symbols: frozenset[str]) -> bool:
    match node:
        case ast.Constant():
            return type(node.value) in (int, float, bool)
        case ast.Name():
            return node.id in symbols
        case ast.Call():
            return not node.keywords and ast.unparse(node.func) in _FUNCTIONS
        case ast.BinOp(op=ast.Pow(), right=ast.Constant(value=int(exponent))):
            return 0 <= exponent <= _LARGEST_POWER
        case ast.BinOp(op=ast.Pow()):
            return False
    return isinstance(node, _ARITHMETIC)


def _encode_spec(spec: TensorSpec | None) -> object:
    if spec is None:
        return None
    layout = None if spec.layout is None else list(spec.layout)
    gradients = None if spec.gradients is None else list(spec.gradients)
    return [encode(spec.dtype), spec.rank, encode(spec.device), layout, spec.parameter, gradients]


def _decode_spec(data: object, values: Decoder) -> TensorSpec | None:
    if data is None:
        return None
    dtype, rank, device, layout, parameter, gradients = require(data, list)
    return TensorSpec(
        require(values.decode(dtype), torch.dtype),
        require(rank, int),
        require(values.decode(device), torch.device),
        None if layout is None else tuple(require(stride, int) for stride in require(layout, list)),
        require(parameter, bool),
        None if gradients is None else _tensor_gradients(require(gradients, list)),
    )


def _tensor_gradients(data: list[object]) -> TensorGradients:
    return TensorGradients(*(require(answer, bool) for answer in data))


def _encode_counters(structures: Iterable[Structure]) -> list[list[str]]:
    kinds = {kind for structure in structures for kind in classes(structure)}
    return sorted([qualified(kind), name] for kind, name in COUNTERS if kind in kinds)


def _place(leaf: object, dim: object) -> Place:
    return require(leaf, int), None if dim is None else require(dim, int)


def _container(slot: object) -> Container:
    if not isinstance(slot, Container):
        raise TypeError("the state of an object isn't a container")
    return slot


def _strings(data: object) -> list[str]:
    return [require(text, str) for text in require(data, list)]
