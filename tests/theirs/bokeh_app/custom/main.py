"""A model of the app's own, in an app that is not run before the fork, for it has hooks."""

from bokeh.io import curdoc

from .model import Shout

curdoc().add_root(Shout(text="shouted"))
