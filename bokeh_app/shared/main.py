"""A board that all visitors see change at once: tap to put a dot on it.

The viewer taps a free place, and there is a dot, of a colour and with a word if they like; a tap on a dot takes it away. What
the others do is seen as it happens. Where the board is kept, and how the visitors of all workers and dynos see the same
one: board.py.

Try: open this page in a second window, or on a phone, and put a dot there.
- Tap a dot to take it away, whoever has put it there.
Tags: shared state, several visitors
Source: shown
"""

import html
import random
import time
from functools import partial

from bokeh.core.property.descriptors import UnsetValueError
from bokeh.events import DocumentReady, Tap
from bokeh.io import curdoc
from bokeh.layouts import column
from bokeh.models import ColumnDataSource, Div, RadioButtonGroup, TextInput
from bokeh.plotting import figure

from .board import BOARD, COLORS, HEIGHT, MAX_DOTS, MAX_WORD, WIDTH, Dot

NEAR = 18  # pixels from a dot's middle, for a finger
EVERY = 0.2  # seconds between two changes of a visitor; what comes sooner is left out

# Data
source = ColumnDataSource({"x": [], "y": [], "color": [], "word": []})

# Plot
plot = figure(
    name="board",
    title="Tap to put or take a dot",
    height=420,
    sizing_mode="stretch_width",
    x_range=(0, WIDTH),
    y_range=(0, HEIGHT),
    tools="",
    toolbar_location=None,
)
plot.axis.visible = False
plot.scatter("x", "y", source=source, size=18, color="color", line_width=0)
plot.text(
    "x", "y", "word", source=source, y_offset=-13, text_align="center", text_baseline="bottom",
    text_font_size="13px",
)  # fmt: skip

# Widgets
colors = RadioButtonGroup(
    labels=list(COLORS), active=random.randrange(len(COLORS)), name="colors", sizing_mode="stretch_width",
    stylesheets=[".bk-btn { padding-inline: 2px }"],  # there is room for them on a phone
)  # fmt: skip
word = TextInput(placeholder="a word to go with it", max_length=MAX_WORD, name="word", sizing_mode="stretch_width")
message = Div(name="message", sizing_mode="stretch_width", styles={"min-height": "1.5em"})


# Callbacks: coroutines, for those run in the event loop, as the board does
document = curdoc()
changed = float("-inf")
showing = False


async def show() -> None:
    """Show the board as it is now."""
    global showing
    showing = False
    dots = BOARD.dots
    source.data = {
        "x": [dot.x for dot in dots],
        "y": [dot.y for dot in dots],
        "color": [COLORS[dot.color] for dot in dots],
        "word": [dot.word for dot in dots],
    }
    count = f"{len(dots)} of {MAX_DOTS} dots." if dots else "No dot is here yet."
    message.text = html.escape(" ".join(filter(None, (BOARD.problem or count, BOARD.about))))


def show_soon() -> None:
    """Have the board shown when the page has time, once for all changes until then."""
    global showing
    if not showing:
        showing = True
        document.add_next_tick_callback(show)


def near(x: float, y: float) -> Dot | None:
    """Return the newest dot within NEAR pixels, None when there is none."""
    try:
        width, height = plot.inner_width, plot.inner_height
    except UnsetValueError:  # the browser tells it when it has drawn the plot
        width, height = 600, 400
    hits = [dot for dot in BOARD.dots if max(abs(dot.x - x) * width / WIDTH, abs(dot.y - y) * height / HEIGHT) <= NEAR]
    return hits[-1] if hits else None


async def change(x: object, y: object) -> None:
    """Take away the dot that was tapped, or put a new one there; nothing that a browser sends has to be so."""
    global changed
    printable = "".join(filter(str.isprintable, word.value))
    try:
        dot = Dot.of(x, y, list(COLORS)[colors.active or 0], printable[:MAX_WORD])
    except (ValueError, IndexError):
        return
    if time.monotonic() - changed >= EVERY:
        changed = time.monotonic()
        tapped = near(dot.x, dot.y)
        await (BOARD.remove(tapped) if tapped else BOARD.add(dot))


async def join() -> None:
    """See what the others do. Only now: the run of every app before the workers are forked has no page."""
    BOARD.join(show_soon)


plot.on_event(Tap, lambda event: document.add_next_tick_callback(partial(change, event.x, event.y)))
document.on_event(DocumentReady, lambda event: document.add_next_tick_callback(join))
document.on_session_destroyed(lambda context: BOARD.leave(show_soon))

# Layout
document.title = "Shared"
document.add_root(column(plot, colors, word, message, sizing_mode="stretch_width"))
