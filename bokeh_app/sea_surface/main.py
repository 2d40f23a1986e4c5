"""A year of sea surface temperatures in the Gulf of Maine, smoothed as much as you like.

The viewer sees every reading of a buoy and, above them, a moving average whose width is set by a slider. How sure that
average is takes several seconds to compute: another process does it, for as long as the viewer is there (work.py).

The data: NERACOOS station B01, Western Maine Shelf, 2016-02-15 to 2017-03-22, a reading every half an hour; dataset
B01_sbe37_all, free to use and redistribute (https://data.neracoos.org/erddap/info/B01_ocean_agg/index.html), the same
extract as bokeh.sampledata.sea_surface_temperature. The station is run by the University of Maine.

Try: average over a day, then over a month.
- Drag over a week of the plot to look at it closely; the button with two arrows in a circle leads back.
- Ask how sure the average is, and move the slider meanwhile: the page stays as quick as it was.
Tags: time series, long computation, processes
Source: shown
"""

import asyncio
import contextlib
from functools import partial

import numpy as np
from bokeh.io import curdoc
from bokeh.layouts import column, row
from bokeh.models import Button, ColumnDataSource, DatetimeTickFormatter, Div, HoverTool, Progress, Slider
from bokeh.plotting import figure

from .data import TEMPERATURES, TIMES, smooth
from .work import BandError
from .work import band as compute

NO_BAND = {"time": [], "low": [], "high": []}

# Data: float32 is exact to a thousandth of a degree, in half the bytes
readings = TEMPERATURES.astype(np.float32)
source = ColumnDataSource({"time": TIMES, "reading": readings, "average": readings})
band = ColumnDataSource(NO_BAND)

# Plot
plot = figure(
    height=400,
    sizing_mode="stretch_width",
    x_axis_type="datetime",
    y_axis_label="Temperature (°C)",
    tools="xpan,xwheel_zoom,xbox_zoom,reset,save",
    toolbar_location="above",
)
plot.line("time", "reading", source=source, line_alpha=0.5, legend_label="reading")
plot.varea("time", "low", "high", source=band, fill_alpha=0.7, fill_color="#f0a030")
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
begin = Button(label="How sure is it?", name="begin", width=130)
cancel = Button(label="Cancel", name="cancel", width=80, disabled=True)
progress = Progress(name="progress", sizing_mode="stretch_width", visible=False)
message = Div(name="message", sizing_mode="stretch_width", styles={"min-height": "1.5em"})
credit = Div(
    text='Station B01, Western Maine Shelf, 2016 and 2017: <a href="https://www.neracoos.org/">NERACOOS</a> and the University'
    ' of Maine, <a href="https://data.neracoos.org/erddap/info/B01_ocean_agg/index.html">free to use and redistribute</a>.',
    sizing_mode="stretch_width",
)


# Callbacks
document = curdoc()
working: asyncio.Task | None = None


def draw() -> None:
    """Compute the average; only this column is sent."""
    source.data["average"] = smooth(TEMPERATURES, days.value).astype(np.float32)


def end(sentence: str) -> None:
    """Say what came of the work; there may be other work now."""
    global working
    working = None
    message.text, progress.visible = sentence, False
    begin.disabled, cancel.disabled = days.value == 0, True  # 0 days are the readings themselves: they are sure


def show(task: asyncio.Task, answer: dict) -> None:
    """Show how far the work is, or what has come of it, unless the visitor wants it no more."""
    if task is not working:
        return
    if "wait" in answer:
        message.text = "Waiting until another visitor's work is done …"
    elif "percent" in answer:
        message.text, progress.value = "Computing thousands of random years …", answer["percent"]
    elif "at" in answer:
        band.data = {"time": TIMES[answer["at"]], "low": answer["low"], "high": answer["high"]}
        errors = np.subtract(answer["high"], answer["low"]) / 2
        usual, most = np.median(errors), errors.max()
        end(f"In 95 of 100 such years it is in the orange band: ±{usual:.2f} °C as a rule, ±{most:.2f} °C at most.")
    else:
        end(answer["error"])


async def work(width: float) -> None:
    """Have the band computed for as long as the visitor is there; the page is told in callbacks, which have its lock."""
    session, task = document.session_context.session, asyncio.current_task()

    def tell(answer: dict) -> None:
        document.add_next_tick_callback(partial(show, task, answer))

    try:
        async with contextlib.aclosing(compute(width)) as answers:
            async for answer in answers:
                if not session.connection_count:
                    break
                tell(answer)
    except BandError as error:
        tell({"error": str(error)})


# Both are coroutines, for those run in the event loop; Bokeh calls other callbacks in threads, from 3.10 on
async def start() -> None:
    """Begin the work, once."""
    global working
    if not working:
        message.text, progress.value, progress.visible = "Beginning …", 0, True
        begin.disabled, cancel.disabled = True, False
        working = asyncio.create_task(work(days.value))
        interrupted = {"error": "This was interrupted; please try again."}  # unless it is at its end already
        working.add_done_callback(lambda task: document.add_next_tick_callback(partial(show, task, interrupted)))


async def stop(sentence: str) -> None:
    """End the work, if there is any."""
    if working:
        working.cancel()
    end(sentence)


def move() -> None:
    """Draw the average over other days; the band, and the work at it, was that of another one."""
    draw()
    band.data = NO_BAND
    document.add_next_tick_callback(partial(stop, ""))


days.on_change("value", lambda attr, old, new: move())
begin.on_click(lambda: document.add_next_tick_callback(start))
cancel.on_click(lambda: document.add_next_tick_callback(partial(stop, "Cancelled.")))
draw()

# Layout
document.title = "Sea surface temperature"
controls = row(begin, cancel, progress, sizing_mode="stretch_width")
document.add_root(column(days, plot, controls, message, credit, sizing_mode="stretch_width"))
