"""Tensor types as text and back."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from torch_mlir import ir

from sparseflow.dialect import load
from sparseflow.dialect.types import TensorType, compatible, tensor_type

DTYPES = ["f16", "bf16", "f32", "f64", "si64", "ui8", "i1", "f8E4M3FN", "complex<f32>"]
shapes = st.none() | st.lists(st.none() | st.integers(0, 2**40), max_size=5).map(tuple)
types = st.builds(TensorType, shapes, st.none() | st.sampled_from(DTYPES))


@pytest.fixture(scope="module")
def context():
    context = ir.Context()
    load(context)
    return context


@given(type_=types)
def test_what_is_built_reads_back(context, type_):
    with context:
        assert tensor_type(type_.build()) == type_


@pytest.mark.parametrize(
    "text",
    ["i32", "!torch.tensor<[2],f32>", "!torch.int", "!torch.list<vtensor>", "tensor<4xf32>"],
)
def test_other_types_are_none(context, text):
    with context:
        assert tensor_type(ir.Type.parse(text)) is None


def test_a_sparse_encoding_is_none(context):
    encoding = "#sparse_tensor.encoding<{ map = (d0, d1) -> (d0 : dense, d1 : compressed) }>"
    text = f"!torch.vtensor<[8,8],f32,{encoding}>"
    with context:
        assert tensor_type(ir.Type.parse(text)) is None


@given(a=types, b=types)
def test_compatibility_is_symmetric_and_holds_for_equals(a, b):
    assert compatible(a, a)
    assert compatible(a, b) == compatible(b, a)


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        ((2, 3), (2, 3), True),
        ((2, None), (2, 3), True),
        (None, (2, 3), True),
        ((2, 3), (3, 3), False),
        ((2, 3), (2, 3, 1), False),
        ((), (1,), False),
    ],
)
def test_compatible_shapes(a, b, expected):
    assert compatible(TensorType(a, "f32"), TensorType(b, "f32")) is expected


def test_dtypes_must_agree_where_known():
    assert not compatible(TensorType((2,), "f32"), TensorType((2,), "f16"))
    assert compatible(TensorType((2,), None), TensorType((2,), "f16"))
