"""A sine curve and a slider: run once for every visitor, who has this document alone."""

import numpy as np
from bokeh.io import curdoc
from bokeh.layouts import column
from bokeh.models import ColumnDataSource, Slider
from bokeh.plotting import figure

# Data
x = np.linspace(0, 4 * np.pi, 200)
source = ColumnDataSource({"x": x, "y": np.sin(x)})

# Plot
plot = figure(height=300, sizing_mode="stretch_width", title="NAME")
plot.line("x", "y", source=source, line_width=2)

# Widgets
frequency = Slider(title="frequency", start=0.1, end=5, value=1, step=0.1, sizing_mode="stretch_width")


# Callbacks
def draw(attr, old, new):
    """Compute the curve for what the slider shows."""
    source.data = {"x": x, "y": np.sin(frequency.value * x)}


frequency.on_change("value", draw)

# Layout
curdoc().title = "NAME"
curdoc().add_root(column(frequency, plot, sizing_mode="stretch_width"))
