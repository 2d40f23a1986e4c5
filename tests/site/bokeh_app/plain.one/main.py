"""The smallest app, in a folder with a dot in its name."""

from bokeh.io import curdoc
from bokeh.plotting import figure

plot = figure(height=200, title="plain")
plot.scatter([1, 2, 3], [3, 1, 2])
curdoc().add_root(plot)
