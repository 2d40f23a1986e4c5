"""Asks over a connection that an import has opened."""

import pool
from bokeh.io import curdoc
from bokeh.models import Div

with pool.lock:
    pool.here.sendall(b"asked")
    answer = pool.here.recv(100).decode()
curdoc().add_root(Div(text=f"{answer} and answered"))
