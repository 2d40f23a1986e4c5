"""A document of 1 MB, and a slider with a text: each move of it is answered with a small patch."""

import numpy as np
from bokeh.io import curdoc
from bokeh.layouts import column
from bokeh.models import ColumnDataSource, Div, Slider
from bokeh.plotting import figure

# measured values have noise in their last digits: random ones, rounded as an instrument would
steps = np.random.default_rng(1).normal(size=65_536)
source = ColumnDataSource({"x": np.arange(65_536.0), "y": np.cumsum(steps).round(3)})
plot = figure(height=300, width=600)
plot.line("x", "y", source=source)
slider = Slider(title="height", start=0, end=1000, step=0.5, value=1)
text = Div(text="1")


def move(attr, old, new):
    text.text = f"The slider says {float(new)}."


slider.on_change("value", move)
curdoc().add_root(column(slider, text, plot))
