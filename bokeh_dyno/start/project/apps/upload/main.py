"""A CSV file of the visitor's own, drawn: the first two columns of it, as x and y."""

import base64
import csv

from bokeh.io import curdoc
from bokeh.layouts import column
from bokeh.models import ColumnDataSource, Div, FileInput
from bokeh.plotting import figure

MAX_ROWS = 20_000

# Data: what is drawn until there is a file
source = ColumnDataSource({"x": [1, 2, 3, 4], "y": [1, 4, 9, 16]})

# Plot
plot = figure(height=300, sizing_mode="stretch_width", title="NAME")
plot.line("x", "y", source=source, line_width=2)
plot.scatter("x", "y", source=source, size=6)

# Widgets
file = FileInput(title="A CSV file", accept=".csv", sizing_mode="stretch_width")
message = Div(text="An example, until you choose a file.")


# Callbacks
def points(text):
    """Return the rows that begin with two numbers, as [x, y]; a heading is none, nor is an empty row."""
    found = []
    for row in csv.reader(text.splitlines()):
        try:
            found.append([float(row[0]), float(row[1])])
        except (IndexError, ValueError):
            continue
    return found


def received(attr, old, new):
    """Draw the file that has come, which is in base64, or say why not. It may be anything: visitors send what they like."""
    try:
        found = points(base64.b64decode(new).decode("utf-8-sig"))
    except (csv.Error, TypeError, ValueError):
        message.text = "This file cannot be read: it has to be CSV, in UTF-8."
        return
    if not 0 < len(found) <= MAX_ROWS:
        message.text = f"{len(found):,} rows of it begin with two numbers: 1 to {MAX_ROWS:,} can be drawn."
        return
    source.data = {"x": [x for x, _ in found], "y": [y for _, y in found]}
    message.text = f"{len(found):,} rows."


file.on_change("value", received)

# Layout
curdoc().title = "NAME"
curdoc().add_root(column(file, message, plot, sizing_mode="stretch_width"))
