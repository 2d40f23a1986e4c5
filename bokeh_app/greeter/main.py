"""Greets whoever is logged in by name, and draws them a flower.

The name comes from the session's token, which only the site can sign: see flask_app/login.py. Whoever comes without
one (the app's own page, opened directly) is told where to log in, and sees nothing else.

Tags: login, signed session
"""

import numpy as np
from bokeh.io import curdoc
from bokeh.layouts import column
from bokeh.models import ColumnDataSource, Div, Slider
from bokeh.plotting import figure

ANGLE = np.linspace(0, 2 * np.pi, 721)


def flower(petals: int) -> dict[str, np.ndarray]:
    """Return the outline of a flower."""
    radius = 1 + 0.6 * np.cos(petals * ANGLE)
    return {"x": radius * np.cos(ANGLE), "y": radius * np.sin(ANGLE)}


def greet(name: str) -> column:
    """Return the greeting and the flower, with a slider for its petals."""
    # as text: a name is not HTML
    greeting = Div(text=f"Hello, {name}!", render_as_text=True, styles={"font-size": "1.5rem"})
    slider = Slider(title="Petals", name="petals", start=3, end=24, value=8, sizing_mode="stretch_width")
    source = ColumnDataSource(flower(slider.value))

    plot = figure(width=300, height=300, align="center", toolbar_location=None, tools="")
    plot.patch("x", "y", source=source, fill_color="#d6629a", fill_alpha=0.75, line_color="#a33a70", line_width=2)
    plot.circle([0], [0], radius=0.2, color="#f2b632")
    plot.axis.visible = False
    plot.grid.visible = False
    plot.outline_line_color = None

    slider.on_change("value", lambda attr, old, new: source.data.update(flower(new)))
    return column(greeting, slider, plot, sizing_mode="stretch_width")


name = curdoc().session_context.token_payload.get("name")
if name:
    curdoc().add_root(greet(str(name)))
else:
    curdoc().add_root(
        Div(text='This app greets those who <a href="/members">log in</a>.', styles={"font-size": "1rem"})
    )
curdoc().title = "Greeter"
