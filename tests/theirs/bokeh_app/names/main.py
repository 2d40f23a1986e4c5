"""A random number that is drawn at boot, of a kind that a fork may share."""

from bokeh.io import curdoc
from bokeh.models import Div
from temporary import NAMES

curdoc().add_root(Div(text="a temporary name" if next(NAMES) else ""))
