"""An animation that is slower than its period: one call waits for the other, also when its session is to end."""

import time

from bokeh.io import curdoc
from bokeh.models import Div

shown = Div(text="ticking")


def tick():
    time.sleep(0.02)
    shown.text = "ticked"


curdoc().add_root(shown)
curdoc().add_periodic_callback(tick, 5)
curdoc().on_session_destroyed(lambda _: print("ticking is over"))
