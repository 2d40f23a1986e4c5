"""Computes in a pool of processes that ends, leaves one that does not, and stops a program with SIGTERM."""

import subprocess
from multiprocessing import Pool

import workers
from bokeh.io import curdoc
from bokeh.models import Div

with Pool(2) as pool:
    total = sum(pool.map(abs, range(-10, 1)))
workers.pool.submit(abs, -1).result()
sleeping = subprocess.Popen(["sleep", "1000"])
sleeping.terminate()
curdoc().add_root(Div(text=f"pool {total}, sleep {sleeping.wait(5)}"))
