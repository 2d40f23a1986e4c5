"""Numbers that come by themselves, four a second; the visitor can have them wait."""

import numpy as np
from bokeh.io import curdoc
from bokeh.layouts import column
from bokeh.models import ColumnDataSource, Toggle
from bokeh.plotting import figure

EVERY = 250  # milliseconds
KEPT = 200  # numbers: the ones before are dropped, here and in the browser

# Data: in the place of chance comes what you measure
chance = np.random.default_rng()
source = ColumnDataSource({"n": [0], "value": [0.0]})

# Plot
plot = figure(height=300, sizing_mode="stretch_width", title="NAME")
plot.line("n", "value", source=source, line_width=2)

# Widgets
pause = Toggle(label="Pause")


# Callbacks
def step():
    """Add a number."""
    if not pause.active:
        n, value = source.data["n"][-1] + 1, source.data["value"][-1] + chance.normal()
        source.stream({"n": [n], "value": [value]}, rollover=KEPT)


curdoc().add_periodic_callback(step, EVERY)

# Layout
curdoc().title = "NAME"
curdoc().add_root(column(pause, plot, sizing_mode="stretch_width"))
