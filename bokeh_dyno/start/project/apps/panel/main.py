"""A sine curve and a slider, with Panel: run once for every visitor, who has this page alone."""

import numpy as np
import panel as pn
from bokeh.models import ColumnDataSource
from bokeh.plotting import figure

pn.extension()

# Data
x = np.linspace(0, 4 * np.pi, 200)
source = ColumnDataSource({"x": x, "y": np.sin(x)})

# Plot
plot = figure(height=300, sizing_mode="stretch_width", title="NAME")
plot.line("x", "y", source=source, line_width=2)

# Widgets
frequency = pn.widgets.FloatSlider(label="frequency", start=0.1, end=5, value=1, step=0.1, sizing_mode="stretch_width")


# Callbacks
def draw(frequency):
    """Compute the curve."""
    source.data = {"x": x, "y": np.sin(frequency * x)}


pn.bind(draw, frequency, watch=True)

# Layout
pn.Column(frequency, pn.pane.Bokeh(plot), sizing_mode="stretch_width").servable(title="NAME")
