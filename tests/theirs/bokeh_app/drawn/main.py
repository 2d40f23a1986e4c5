"""Prints random numbers, which are others in every worker."""

import chance
from bokeh.io import curdoc
from bokeh.models import Div

print("drawn", chance.source.random())
curdoc().add_root(Div(text="a number"))
