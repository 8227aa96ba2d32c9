"""The colours of all pages and charts, on light and on dark ground."""

from __future__ import annotations

from dataclasses import dataclass, fields


@dataclass(frozen=True)
class Palette:
    """Colours as ``#rrggbb``.

    Attributes:
        page: the ground.
        ink: text.
        quiet: text of less weight.
        line: rules and grids.
        panel: the ground of boxes.
        faster: of what is twice as fast, in a heat map.
        slower: of what is half as fast.
        neutral: of what is as fast.
        series: of lines, bars and slices, in order.
    """

    page: str
    ink: str
    quiet: str
    line: str
    panel: str
    faster: str
    slower: str
    neutral: str
    series: tuple[str, ...]

    def variables(self) -> dict[str, str]:
        """Return each colour by its name in CSS, without the dashes."""
        single = {one.name: getattr(self, one.name) for one in fields(self) if one.name != "series"}
        return single | {f"series{place}": colour for place, colour in enumerate(self.series)}


LIGHT = Palette(
    page="#fcfcfb",
    ink="#1c1e21",
    quiet="#5d6369",
    line="#e1e3e5",
    panel="#f3f4f4",
    faster="#5b9bd5",
    slower="#e8974e",
    neutral="#eceeef",
    series=("#4477aa", "#ee6677", "#ccbb44", "#bbbbbb", "#66ccee", "#aa3377", "#228833"),
)
"""The series are Paul Tol's "bright" scheme, which colour-blind readers can tell apart."""

DARK = Palette(
    page="#15171a",
    ink="#e6e8ea",
    quiet="#9ba2a9",
    line="#2d3136",
    panel="#1e2125",
    faster="#2f6ea8",
    slower="#a8571b",
    neutral="#2a2e33",
    series=("#77aadd", "#ee8866", "#eedd88", "#8d949b", "#99ddff", "#ffaabb", "#44bb99"),
)
"""The series are Paul Tol's "light" scheme, with a grey for dark ground."""

ON_SERIES = "#1c1e21"
"""Text within bars and slices, on light and on dark ground."""
