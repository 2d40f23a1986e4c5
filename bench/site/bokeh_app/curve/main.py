"""What every peer serves: a slider and a curve that the server computes anew for each move of it."""

import os

import numpy as np
from bokeh.io import curdoc
from bokeh.layouts import column
from bokeh.models import ColumnDataSource, Slider
from bokeh.plotting import figure

if runs := os.environ.get("BENCH_RUNS"):  # a byte for each run
    with open(runs, "a") as file:
        file.write(".")

x = np.linspace(0, 10, 200)
source = ColumnDataSource({"x": x, "y": np.cos(x)})
plot = figure(height=300, width=600)
plot.line("x", "y", source=source)
slider = Slider(title="height", start=0, end=1000, step=0.5, value=1)


def move(attr, old, new):
    source.data = {"x": x, "y": new * np.cos(x)}  # y begins with the slider's value, so that clients can check it


slider.on_change("value", move)
curdoc().add_root(column(slider, plot))
