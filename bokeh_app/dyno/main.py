"""What this very dyno is doing: CPU, memory and open pages of its processes, live.

The viewer sees two curves that grow every two seconds, and a table of the processes. Pids and memory are nobody else's
business: they are shown where the site has signed `visitor={"inside": True}` into the session's token (flask_app/login.py).

Try: open another app in a second window; its worker then has one page more.
- Where it runs, `kill -USR2 $(cat run/lock)`: for a while there are two generations of every process.
Tags: streaming, periodic callback, login
Source: shown
"""

import html
import time

from bokeh.io import curdoc
from bokeh.layouts import column
from bokeh.models import ColumnDataSource, DatetimeTickFormatter, Div, Range1d
from bokeh.plotting import figure

from .data import SAMPLER

EVERY = 2000  # ms
KEPT = 300  # points
AT_FIRST = 60_000  # ms of the time axis, until there are more points than fit

# whether this visitor may see it; for others the plots are there but not shown, as in the run at boot, which the place on a
# page has its height from
inside = curdoc().session_context.token_payload.get("inside") is True

# Data
source = ColumnDataSource({"time": [], "cpu": [], "memory": []})

# Plot
span = Range1d()
look = {"x_axis_type": "datetime", "height": 200, "sizing_mode": "stretch_width", "tools": "", "toolbar_location": None}
cpu = figure(y_axis_label="CPU (% of a core)", x_range=span, **look)
memory = figure(y_axis_label="memory (MB)", x_axis_label="time (UTC)", x_range=span, **look)
for plot, name, color in ((cpu, "cpu", "#3b82c4"), (memory, "memory", "#3a9a63")):
    plot.line("time", name, source=source, line_width=2, color=color)
    plot.scatter("time", name, source=source, size=3, color=color)  # a line has two points, and at first there is one
    plot.xaxis.formatter = DatetimeTickFormatter(
        seconds="%H:%M:%S", minsec="%H:%M:%S", minutes="%H:%M", hourmin="%H:%M"
    )
    plot.min_border_right = 30
    plot.xaxis.ticker.desired_num_ticks = 3  # there is room for them on a phone
    plot.y_range.start = 0
    plot.styles = {} if inside else {"display": "none"}

# Widgets
processes = Div(name="processes", min_height=290, sizing_mode="stretch_width")  # what is below it stays where it is
CELL = "style='padding: 2px 10px 2px 0; white-space: nowrap; text-align: {}'"
COLUMNS = (
    ("process", "left"),
    ("generation", "left"),
    ("pid", "right"),
    ("CPU %", "right"),
    ("MB", "right"),
    ("pages", "right"),
)


# Callbacks
def row(tag: str, cells: tuple[str, ...]) -> str:
    """Return a row of the table."""
    pairs = zip(cells, COLUMNS, strict=True)
    return (
        "<tr>"
        + "".join(f"<{tag} {CELL.format(side)}>{html.escape(cell)}</{tag}>" for cell, (_, side) in pairs)
        + "</tr>"
    )


def update() -> None:
    """Add a point to both curves and write the table anew."""
    sample = SAMPLER.sample()
    now = time.time() * 1000
    point = {"time": [now], "cpu": [sum(one.cpu for one in sample)], "memory": [sum(one.memory for one in sample)]}
    source.stream(point, rollover=KEPT)
    span.update(start=min(source.data["time"][0], now - AT_FIRST), end=now)
    rows = [
        row(
            "td",
            (one.name, one.generation, str(one.pid), f"{one.cpu:.0f}", f"{one.memory:.0f}", str(one.sessions or "")),
        )
        for one in sorted(sample, key=lambda one: one.generation)
    ]
    processes.text = f"<table>{row('th', tuple(name for name, _ in COLUMNS))}{''.join(rows)}</table>"


# Layout
if inside:
    curdoc().add_periodic_callback(update, EVERY)
    update()
else:
    processes.text = 'What goes on inside this dyno is <a href="/apps/dyno">for those who log in</a>.'
curdoc().title = "Dyno"
curdoc().add_root(column(cpu, memory, processes, sizing_mode="stretch_width"))
