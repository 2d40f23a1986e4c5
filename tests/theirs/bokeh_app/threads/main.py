"""Asks a thread that an import has started."""

import threading

import work
from bokeh.io import curdoc
from bokeh.models import Div

work.questions.put(answered := threading.Event())
curdoc().add_root(Div(text=f"thread {'answers' if answered.wait(5) else 'is silent'}"))
