"""Your own CSV, up to 10 MB, drawn.

The viewer picks a file and sees its columns of numbers as lines; what cannot be drawn is answered with a sentence.

Try: choose a CSV with a column of dates.
- Choose a picture, an empty file or a very large one: each gets an answer.
Tags: file upload, untrusted input
Source: shown
"""

import asyncio
import html
from functools import partial

import numpy as np
from bokeh.io import curdoc
from bokeh.layouts import column
from bokeh.models import CheckboxGroup, ColumnDataSource, CustomJS, DatetimeTickFormatter, Div, FileInput, Range1d
from bokeh.palettes import Category10_10
from bokeh.plotting import figure

from .data import MAX_BYTES, Table, parse, thin

DRAWN_AT_FIRST = 4  # lines

# Data: what the visitor sees until there is a file
x = np.linspace(0, 10, 200)
table = Table(x, {"an example": np.sin(x) * np.exp(-x / 8)}, x_name="x")


# Plot: a new one for each table, with the axis and the ranges that suit it
def plot(table: Table, names: list[str]) -> figure:
    """Return a plot of these columns of the table."""
    drawing = figure(
        height=400,
        sizing_mode="stretch_width",
        x_axis_type="datetime" if table.has_dates else "linear",
        x_axis_label=table.x_name,
        tools="pan,wheel_zoom,box_zoom,reset,save",
        toolbar_location="above",
    )
    if table.has_dates:
        drawing.xaxis.formatter = DatetimeTickFormatter(
            months="%b\n%Y", days="%d %b\n%Y", hours="%d %b\n%H:%M", hourmin="%H:%M", minutes="%H:%M"
        )
    if not names:
        drawing.x_range, drawing.y_range = Range1d(0, 1), Range1d(0, 1)
        return drawing
    for number, name in enumerate(names):
        x, y = thin(table.x, table.columns[name])
        source = ColumnDataSource({"x": x, "y": y})
        color, label = Category10_10[number % 10], name if len(name) <= 20 else name[:19] + "…"
        drawing.line("x", "y", source=source, legend_label=label, line_width=1.5, color=color)
        if len(x) == 1 or np.isnan(y).any():  # a number between two gaps has no line
            drawing.scatter("x", "y", source=source, legend_label=label, size=3, color=color)
    drawing.legend.ncols = 3
    drawing.legend.border_line_color = None
    drawing.add_layout(drawing.legend[0], "below")
    return drawing


# Widgets
file = FileInput(title="A CSV file, at most 10 MB", accept=".csv,.tsv,.txt", name="file", sizing_mode="stretch_width")
lines = CheckboxGroup(  # MultiChoice writes a warning into the browser's console
    name="columns", inline=True, sizing_mode="stretch_width", styles={"max-height": "120px", "overflow-y": "auto"}
)
message = Div(text="", name="message", sizing_mode="stretch_width", styles={"min-height": "1.5em"})
page = column(file, message, lines, plot(table, []), sizing_mode="stretch_width")


# Callbacks
document = curdoc()
reading: asyncio.Task | None = None


def say(text: str) -> None:
    """Show a sentence; a file name in it is text, whatever it looks like."""
    message.text = html.escape(text)


def draw() -> None:
    """Draw the columns that are chosen, once they are those of this table."""
    if lines.labels == list(table.columns):
        page.children[-1] = plot(table, [lines.labels[number] for number in lines.active])


def choose() -> None:
    """Offer the columns of the table: those of the same names as before are chosen, or else the first."""
    names = list(table.columns)
    if names == lines.labels:
        draw()
        return
    before = {lines.labels[number] for number in lines.active}
    lines.active = []  # no number may be left that the new labels lack
    lines.labels = names
    same = [number for number, name in enumerate(names) if name in before]
    lines.active = same or list(range(min(DRAWN_AT_FIRST, len(names))))


def show(name: str, fresh: Table) -> None:
    """Draw a table that has been read."""
    global table
    table = fresh
    choose()
    text = f"{name}: {len(table.x):,} rows, {len(table.columns)} column{'s'[: len(table.columns) > 1]} of numbers."
    if table.ignored:
        ignored = ", ".join(table.ignored[:5]) + (" …" if len(table.ignored) > 5 else "")
        text += f" Not drawn, for it is not numbers: {ignored}."
    say(text)


async def read(encoded: str, name: str) -> None:
    """Have a file read for as long as the visitor is there; the page is told in callbacks, which have its lock."""
    session = document.session_context.session

    def tell(text: str) -> None:
        document.add_next_tick_callback(partial(say, f"{name}: {text}"))

    parsing = asyncio.ensure_future(parse(encoded, tell))
    del encoded
    try:
        while not parsing.done() and session.connection_count:
            await asyncio.wait([parsing], timeout=1)
        if parsing.done():
            document.add_next_tick_callback(partial(show, name, parsing.result()))
        else:  # for who comes back after the network was gone
            tell("The connection was lost while this file was read; please choose it again.")
    except ValueError as error:
        tell(str(error))
    except Exception:
        tell("This file could not be read.")
        raise
    finally:
        parsing.cancel()


async def start(encoded: str) -> None:
    """Read a file in the place of the one before, if that is still being read.

    A coroutine, for those run in the event loop; Bokeh calls other callbacks in threads, from 3.10 on.
    """
    global reading
    if reading:
        reading.cancel()
    reading = asyncio.create_task(read(encoded, file.filename or "the file"))


def received(attr: str, old: str, new: str) -> None:
    """Read the file when its name has come too; it comes after the content."""
    if new:
        document.add_next_tick_callback(partial(start, new))


file.on_change("value", received)
# neither the browser nor this worker keeps what has been read
message.js_on_change("text", CustomJS(args={"file": file}, code='if (file.value) file.setv({value: ""})'))
lines.on_change("active", lambda attr, old, new: draw())

# A file comes in one message, in base64, and the server cuts the connection when that is above MAX_UPLOAD_MB: what is too
# large must be refused before it is read
document.js_on_event(
    "document_ready",
    CustomJS(
        args={"file": file, "message": message, "limit": MAX_BYTES},
        code="""
            const view = Bokeh.index.find_one(file)
            view.shadow_el.addEventListener("change", (event) => {
                const chosen = event.target.files?.[0]
                if (chosen == null) return
                if (chosen.size > 0 && chosen.size <= limit) {
                    file.setv({value: ""}) // the same file again is a change, too
                    return
                }
                event.stopImmediatePropagation()
                const name = chosen.name.replaceAll("&", "&amp;").replaceAll("<", "&lt;")
                const size = `${(chosen.size / 1e6).toFixed(1)} MB; at most ${limit / 1e6} MB can be drawn.`
                event.target.value = ""
                message.text = `${name}: This file ${chosen.size == 0 ? "is empty." : `has ${size}`}`
            }, {capture: true})
        """,
    ),
)

# Layout
choose()
document.title = "Upload"
document.add_root(page)
