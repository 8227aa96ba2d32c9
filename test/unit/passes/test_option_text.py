"""Options as text and back, pipelines as text and back."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparseflow.errors import PassError
from sparseflow.passes import format_pipeline, parse_pipeline
from sparseflow.passes.match_sparse_linear import MatchSparseLinear
from sparseflow.passes.merge_projections import MergeProjections
from sparseflow.passes.native_passes import NativePass
from sparseflow.passes.option_text import format_pass, parse_options
from sparseflow.passes.pipeline_text import parse_elements

patterns = (
    st.text(st.characters(exclude_characters=",", exclude_categories=("Cs", "Cc", "Zl", "Zp")), min_size=1)
    .map(str.strip)
    .filter(bool)
)
matches = st.builds(
    MatchSparseLinear,
    min_n=st.integers(0, 10**9),
    min_k=st.integers(0, 10**9),
    skip=st.lists(patterns, max_size=4).map(tuple),
)


@given(pass_=matches)
def test_a_pass_written_as_text_reads_back(pass_):
    text = format_pass(pass_)
    options = text[len("match-sparse-linear{") : -1] if "{" in text else ""
    assert parse_options(MatchSparseLinear, options) == pass_


@given(passes=st.lists(matches | st.builds(MergeProjections, max_parts=st.integers(0, 99)), max_size=4))
def test_a_pipeline_written_as_text_reads_back(passes):
    assert parse_pipeline(format_pipeline(passes)) == tuple(passes)


def test_defaults_are_left_out():
    assert format_pass(MatchSparseLinear(min_k=3)) == "match-sparse-linear{min-k=3}"
    assert format_pass(MatchSparseLinear()) == "match-sparse-linear"


def test_entries_of_mlir_itself_are_kept_as_written():
    passes = parse_pipeline("builtin.module( cse , func.func(canonicalize{max-iterations=3},cse) )")
    assert passes == (NativePass("cse"), NativePass("func.func(canonicalize{max-iterations=3},cse)"))
    assert parse_pipeline(format_pipeline(passes)) == passes


@pytest.mark.parametrize("text", ["", "  ", "builtin.module()", "builtin.module( )"])
def test_no_passes(text):
    assert parse_pipeline(text) == ()


def refusal(read, text):
    """The error that reading a text ends with, None without one; anything else escapes."""
    try:
        read(text)
    except PassError as error:
        return error
    return None


@given(text=st.text(alphabet="ab-,(){}'\"= .", max_size=30))
def test_any_pipeline_parses_or_is_refused_by_its_text(text):
    error = refusal(parse_elements, text)
    assert error is None or error.subject.startswith("pipeline '")


@given(text=st.text(alphabet="ab=', -\\", max_size=20))
def test_any_options_parse_or_are_refused_by_the_pass(text):
    error = refusal(lambda text: parse_options(MatchSparseLinear, text), text)
    assert error is None or "match-sparse-linear" in error.subject
