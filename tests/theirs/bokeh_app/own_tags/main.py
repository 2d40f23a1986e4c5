"""A page that has the tags of BokehJS itself."""

from bokeh.io import curdoc
from bokeh.models import Div

curdoc().add_root(Div(text="tagged"))
