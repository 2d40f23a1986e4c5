"""Counts its runs in a file and prints, so that a test can see both; a slider moves the line."""

import os

from bokeh.io import curdoc
from bokeh.layouts import column
from bokeh.models import ColumnDataSource, Slider
from bokeh.plotting import figure

arguments = curdoc().session_context.request.arguments
word = arguments.get("word", [b""])[0].decode()
if counter := os.environ.get("TEST_COUNTER"):
    with open(counter, "a") as file:
        file.write(f"{curdoc().session_context.id} {os.getpid()}\n")
if word:
    print(f"bokeh printed {word}")

source = ColumnDataSource({"x": [0, 1, 2], "y": [1, 1, 1]}, name="line")
plot = figure(height=200, title="counter")
plot.line("x", "y", source=source)
slider = Slider(title="height", name="height", start=0, end=10, value=1)


def move(attr, old, new):
    if word:
        print(f"bokeh moved {word}")
    source.data = {"x": [0, 1, 2], "y": [new] * 3}


slider.on_change("value", move)
curdoc().add_root(column(slider, plot))
