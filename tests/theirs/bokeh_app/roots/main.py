"""Adds nothing to its document, and wants to be told when a session ends, with names of its own."""

from bokeh.io import curdoc

farewell = "goodbye"
curdoc().on_session_destroyed(lambda session_context: print("ended with", farewell))
