"""The height that a document takes at least, as far as its models say: its place on a page has it before it is drawn."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from bokeh.document import Document
from bokeh.model import Model

PLOT, TABLE = 600, 400  # what Bokeh takes where an app says nothing
TITLE, INPUT, SLIDER, BUTTON, ROW, HEADER = 17, 31, 37, 28, 18, 31  # of a widget's parts, measured in Chromium
BY_TYPE = {
    "Slider": SLIDER, "RangeSlider": SLIDER, "DateSlider": SLIDER, "DateRangeSlider": SLIDER, "DatetimeRangeSlider": SLIDER,
    "Button": BUTTON, "Toggle": BUTTON, "Dropdown": BUTTON, "RadioButtonGroup": BUTTON, "CheckboxButtonGroup": BUTTON,
    "Div": ROW, "Paragraph": ROW, "PreText": ROW, "Checkbox": ROW, "Switch": ROW, "DataTable": TABLE,
}  # fmt: skip
OF_THE_WINDOW = ("stretch_both", "stretch_height", "scale_both", "scale_width", "scale_height")
MOST = 4000  # pixels; the rest is below every window


def of(document: Document) -> int:
    """Return the pixels that the roots of a document take at least, one below the other; 0 where nothing is known."""
    return min(MOST, sum(map(_of, document.roots)))


def _of(model: Any) -> int:
    """Return the pixels that a model takes at least, with its margin."""
    if getattr(model, "visible", True) is False:
        return 0
    kind = next((cls.__name__ for cls in type(model).__mro__ if cls.__name__ in BY_TYPE or cls.__name__ in PARTS), "")
    depends = getattr(model, "sizing_mode", None) in OF_THE_WINDOW
    height = getattr(model, "height", None)
    if not isinstance(height, int) or depends:
        height = PARTS[kind](model) if kind in PARTS else BY_TYPE.get(kind, 0)
        if depends and kind in ("Plot", "DataTable"):
            height = 0
    least = getattr(model, "min_height", None)
    return max(height, least if isinstance(least, int) else 0) + _margin(model)


def _margin(model: Any) -> int:
    margin = getattr(model, "margin", None)
    if isinstance(margin, Sequence):
        return margin[0] + margin[2 if len(margin) == 4 else 0]
    return 2 * margin if isinstance(margin, int) else 0


def _spaced(model: Any, heights: Iterable[int]) -> int:
    """Return the sum of the heights that are not 0, with the model's spacing between them."""
    found = [height for height in heights if height]
    spacing = getattr(model, "spacing", 0)
    between = spacing[0] if isinstance(spacing, Sequence) else spacing
    return sum(found) + max(0, len(found) - 1) * (between if isinstance(between, int) else 0)


def _children(model: Any) -> list[Model]:
    return [child for child in model.children if isinstance(child, Model)]


def _grid(model: Any) -> int:
    rows: dict[int, int] = {}
    for child, row, *_ in model.children:
        rows[row] = max(rows.get(row, 0), _of(child))
    return _spaced(model, rows.values())


def _tabs(model: Any) -> int:
    return HEADER + max((_of(tab.child) for tab in model.tabs), default=0)


PARTS: dict[str, Callable[[Any], int]] = {
    "Plot": lambda model: PLOT,
    "Column": lambda model: _spaced(model, map(_of, _children(model))),
    "Row": lambda model: max(map(_of, _children(model)), default=0),
    "GridBox": _grid,
    "GridPlot": _grid,
    "Tabs": _tabs,
    "RadioGroup": lambda model: ROW * len(model.labels),
    "CheckboxGroup": lambda model: ROW * len(model.labels),
    "InputWidget": lambda model: INPUT + (TITLE if model.title else 0),
}
