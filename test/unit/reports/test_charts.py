"""Charts: one style, light and dark, and legible however many layers there are."""

from __future__ import annotations

import itertools
import re

import pytest

from sparseflow.errors import ArgumentError
from sparseflow.evaluation import layer_plot, plots
from sparseflow.evaluation.layer_plot import error_by_layer
from sparseflow.pruning.prune_report import PrunedLayer, PruneReport
from sparseflow.reports.charts import chart
from sparseflow.reports.colours import DARK, LIGHT

pytest.importorskip("matplotlib")
KINDS = ("attn.q", "attn.k", "attn.v", "attn.o", "mlp.gate", "mlp.up", "mlp.down")


def pruned(names, method="wanda"):
    layers = [PrunedLayer(name, 8, 8, method, 4, 0.1 + i / 1e4, None, "") for i, name in enumerate(names)]
    return PruneReport([*layers, PrunedLayer("lm_head", 8, 8, None, 0, None, None, "skipped")], [])


def blocks(count):
    return pruned(f"layers.{i}.{kind}" for i, kind in itertools.product(range(count), KINDS))


@pytest.fixture
def drawn(monkeypatch, tmp_path):
    """The figure that `error_by_layer` would write, not written."""
    import contextlib

    from matplotlib.figure import Figure

    figures = []

    @contextlib.contextmanager
    def kept(path, width, height, *, dark=False):
        figures.append(Figure(figsize=(width, height)))
        yield figures[-1]

    monkeypatch.setattr(layer_plot, "chart", kept)

    def draw(reports):
        error_by_layer(reports, tmp_path / "x.png")
        return figures[-1]

    return draw


@pytest.mark.parametrize("count", [2, 32, 80])
def test_a_panel_a_kind_with_the_blocks_along_its_axis(drawn, count):
    figure = drawn({"a": blocks(count), "b": blocks(count)})
    shown = [axes for axes in figure.axes if axes.get_visible()]
    assert [axes.get_title(loc="left") or axes.get_title() for axes in shown] == list(KINDS)
    for axes in shown:
        assert [list(line.get_xdata()) for line in axes.lines] == [list(range(count))] * 2
    assert len({axes.get_ylim() for axes in shown}) == 1
    # No name of a layer is an axis' label: 560 of them were unreadable.
    assert not any("layers" in label.get_text() for axes in shown for label in axes.get_xticklabels())
    legend = [text.get_text() for text in figure.legends[0].get_texts()]
    assert legend[0].startswith(f"a: {7 * count} layers, median 0.1")
    assert legend[0].endswith(f"in layers.{count - 1}.mlp.down")
    assert figure.legends[0].get_title().get_text() == "Relative error of the weights, by block"


def test_experts_of_a_block_are_a_median_and_a_band(drawn):
    figure = drawn(
        {"a": pruned(f"layers.{i}.experts.{e}.w" for i, e in itertools.product(range(4), range(3)))}
    )
    (axes, *_) = figure.axes
    assert list(axes.lines[0].get_xdata()) == [0, 1, 2, 3]
    assert axes.lines[0].get_ydata()[0] == pytest.approx(0.1001)
    assert len(axes.collections) == 1


def test_layers_of_their_own_share_a_panel_and_the_rest_is_counted(drawn):
    figure = drawn({"a": pruned(f"part{chr(97 + i)}.fc" for i in range(20))})
    (axes, *_) = figure.axes
    assert len(axes.get_yticklabels()) == 16
    assert "4 more" in (axes.get_title(loc="left") or axes.get_title())
    assert not any(axes.lines for axes in drawn({"a": PruneReport([], [])}).axes)


def test_a_picture_is_light_or_dark_and_an_svg_both(tmp_path):
    from matplotlib.image import imread

    for dark, palette in ((False, LIGHT), (True, DARK)):
        plots.curve([(0, 1.0), (1, 0.5)], tmp_path / "x.png", "x", "y", dark=dark)
        corner = "#" + "".join(f"{round(255 * part):02x}" for part in imread(tmp_path / "x.png")[0, 0, :3])
        assert corner == palette.page
    plots.curve([(0, 1.0), (1, 0.5)], tmp_path / "x.svg", "x", "y", dark=True)
    text = (tmp_path / "x.svg").read_text()
    assert "prefers-color-scheme: dark" in text
    assert f"fill: {LIGHT.page}; fill: var(--page)" in text
    assert f"stroke: {LIGHT.series[0]}; stroke: var(--series0)" in text
    used = set(re.findall(r"var\(--(\w+)\)", text))
    assert all(text.count(f"--{name}:") == 2 for name in used)


def test_palettes_have_the_same_names_and_no_colour_twice():
    assert list(LIGHT.variables()) == list(DARK.variables())
    for palette in (LIGHT, DARK):
        colours = list(palette.variables().values())
        assert len(set(colours)) == len(colours)
        assert all(re.fullmatch("#[0-9a-f]{6}", colour) for colour in colours)


def test_an_error_within_a_chart_writes_nothing(tmp_path):
    with pytest.raises(KeyError), chart(tmp_path / "x.png", 2, 2):
        raise KeyError("x")
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ArgumentError, match=r"can.t be written"), chart(tmp_path / "none" / "x.svg", 2, 2):
        pass
