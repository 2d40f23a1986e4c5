"""A year of sea surface temperatures in the Gulf of Maine, smoothed as much as you like.

The viewer sees every reading of a buoy and, above them, a moving average whose width is set by a slider.

The data: NERACOOS station B01, Western Maine Shelf, 2016-02-15 to 2017-03-22, a reading every half an hour; dataset
B01_sbe37_all, free to use and redistribute (https://data.neracoos.org/erddap/info/B01_ocean_agg/index.html), the same
extract as bokeh.sampledata.sea_surface_temperature. The station is run by the University of Maine.
"""

import numpy as np
from bokeh.io import curdoc
from bokeh.layouts import column
from bokeh.models import ColumnDataSource, DatetimeTickFormatter, Div, HoverTool, Slider
from bokeh.plotting import figure

from .data import TEMPERATURES, TIMES, smooth

# Data: float32 is exact to a thousandth of a degree, in half the bytes
readings = TEMPERATURES.astype(np.float32)
source = ColumnDataSource({"time": TIMES, "reading": readings, "average": readings})

# Plot
plot = figure(
    height=400,
    sizing_mode="stretch_width",
    x_axis_type="datetime",
    y_axis_label="Temperature (°C)",
    tools="xpan,xwheel_zoom,xbox_zoom,reset,save",
    toolbar_location="above",
)
plot.line("time", "reading", source=source, line_alpha=0.35, legend_label="reading")
line = plot.line("time", "average", source=source, line_width=2, legend_label="average")
plot.add_tools(
    HoverTool(
        renderers=[line],
        mode="vline",
        tooltips=[("", "@time{%d %b %Y %H:%M} UTC"), ("reading", "@reading{0.0} °C"), ("average", "@average{0.0} °C")],
        formatters={"@time": "datetime"},
    )
)
plot.legend.orientation = "horizontal"
plot.legend.spacing = 16
plot.legend.location = "left"
plot.legend.border_line_color = None
plot.add_layout(plot.legend[0], "below")
plot.xaxis.formatter = DatetimeTickFormatter(months="%b\n%Y", days="%d %b", hours="%H:%M", hourmin="%H:%M")

# Widgets
days = Slider(title="Average over days", value=7, start=0, end=30, step=1, sizing_mode="stretch_width")
credit = Div(
    text='Station B01, Western Maine Shelf, 2016 and 2017: <a href="https://www.neracoos.org/">NERACOOS</a> and the University'
    ' of Maine, <a href="https://data.neracoos.org/erddap/info/B01_ocean_agg/index.html">free to use and redistribute</a>.',
    sizing_mode="stretch_width",
)


# Callbacks
def draw() -> None:
    """Compute the average; only this column is sent."""
    source.data["average"] = smooth(TEMPERATURES, days.value).astype(np.float32)


days.on_change("value", lambda attr, old, new: draw())
draw()

# Layout
curdoc().title = "Sea surface temperature"
curdoc().add_root(column(days, plot, credit, sizing_mode="stretch_width"))
