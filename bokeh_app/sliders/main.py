"""A sine curve and a slider for everything that makes it one.

The viewer moves a slider or types a title, the browser tells the server, the server computes the curve and sends it
back. The address may say where to begin: /bkapp/sliders?frequency=2&title=Twice%20as%20fast

Try: move a slider, with the mouse or with the arrow keys.
- Add `?frequency=2&title=Twice%20as%20fast` to the address.
- Move the sliders, then restart the server: the page comes back by itself, as you left it.
Tags: sliders, callbacks, arguments
Source: shown
"""

import numpy as np
from bokeh.io import curdoc
from bokeh.layouts import column
from bokeh.models import ColumnDataSource, Slider, TextInput
from bokeh.plotting import figure

# what the page was asked for: {name: [value, …]}, the values are bytes and can be anything
arguments = curdoc().session_context.request.arguments


def number(name: str, default: float, start: float, end: float) -> float:
    """Return the number that the address gives for `name`; the default when it is none or out of range."""
    try:
        value = float(arguments.get(name, [default])[0])
    except ValueError:
        return default
    return value if start <= value <= end else default


def text(name: str, default: str) -> str:
    """Return the text that the address gives for `name`, at most 80 characters of it."""
    return arguments[name][0].decode(errors="replace")[:80] if name in arguments else default


# Data
x = np.linspace(0, 4 * np.pi, 500)
source = ColumnDataSource({"x": x, "y": x})

# Plot
plot = figure(
    height=360,
    sizing_mode="stretch_width",
    x_range=(0, 4 * np.pi),
    y_range=(-2.5, 2.5),
    x_axis_label="x",
    y_axis_label="y",
    tools="pan,wheel_zoom,box_zoom,reset,save",
    toolbar_location="above",
)
plot.line("x", "y", source=source, line_width=3)

# Widgets
title = TextInput(title="Title", value=text("title", "A sine curve"), sizing_mode="stretch_width")


def slider(name: str, default: float, start: float, end: float) -> Slider:
    """Return a slider that begins where the address says."""
    value = number(name, default, start, end)
    return Slider(title=name.capitalize(), value=value, start=start, end=end, step=0.1, sizing_mode="stretch_width")


offset = slider("offset", 0.0, -5.0, 5.0)
amplitude = slider("amplitude", 1.0, -5.0, 5.0)
phase = slider("phase", 0.0, 0.0, 6.2)
frequency = slider("frequency", 1.0, 0.1, 5.0)


# Callbacks: each computes everything from what the widgets show now, so that a page whose connection was lost is whole
# again as soon as its widgets are
def draw() -> None:
    """Compute the curve."""
    source.data = {"x": x, "y": offset.value + amplitude.value * np.sin(frequency.value * x + phase.value)}


def name() -> None:
    """Give the plot its title."""
    plot.title.text = title.value


title.on_change("value", lambda attr, old, new: name())
for widget in (offset, amplitude, phase, frequency):
    widget.on_change("value", lambda attr, old, new: draw())
name()
draw()

# Layout
curdoc().title = "Sliders"
curdoc().add_root(column(title, offset, amplitude, phase, frequency, plot, sizing_mode="stretch_width"))
