from typing import ClassVar

from torch_mlir import ir

Operand = ir.Value
Result = ir.OpResult

class FieldDef:
    name: str

class OperandDef(FieldDef): ...
class AttributeDef(FieldDef): ...
class ResultDef(FieldDef): ...
class RegionDef(FieldDef): ...

def partition_fields(
    fields: list[FieldDef],
) -> tuple[list[OperandDef], list[AttributeDef], list[ResultDef], list[RegionDef]]: ...

class Operation(ir.OpView):
    _fields: ClassVar[list[FieldDef]]
    # Each subclass takes its fields, a type for each result.
    def __init__(
        self,
        *fields: ir.Type | ir.Value | ir.Attribute,
        **optional: ir.Type | ir.Value | ir.Attribute | None,
    ) -> None: ...
    def __init_subclass__(
        cls,
        *,
        name: str | None = None,
        traits: list[type] | None = None,
        dialect: type[Dialect] | None = None,
    ) -> None: ...

class Dialect:
    DIALECT_NAMESPACE: ClassVar[str]
    # One of its own for each dialect.
    class Operation(Operation): ...

    def __init_subclass__(cls, name: str) -> None: ...
    @classmethod
    def load(cls) -> None: ...

class Pure: ...
