"""Starts with what most apps need of BokehJS; each step of the slider shows something that needs another part of it."""

from bokeh.io import curdoc
from bokeh.layouts import column
from bokeh.models import ColumnDataSource, DataTable, Div, Slider, TableColumn
from bokeh.plotting import figure

numbers = ColumnDataSource({"x": [1, 2, 3]})


def show(count: int) -> None:
    """Show the slider and the first `count` of a table, a formula, a plot drawn with WebGL."""
    page.children = [slider, *(make() for make in (table, formula, plot)[:count])]


def table() -> DataTable:
    return DataTable(source=numbers, columns=[TableColumn(field="x", title="a column")], height=100)


def formula() -> Div:
    return Div(text=r"$$\frac{1}{2}$$", name="formula")


def plot() -> figure:
    drawing = figure(height=200, output_backend="webgl")
    drawing.scatter("x", "x", source=numbers)
    return drawing


# the page may begin with some of it, other than in the run before the port opens
shown = int(curdoc().session_context.request.arguments.get("shown", [b"0"])[0])
slider = Slider(title="shown", start=0, end=3, value=shown)
page = column(slider)
show(shown)
slider.on_change("value", lambda attr, old, new: show(new))
curdoc().add_root(page)
