"""A plot as large as its page."""

from bokeh.io import curdoc
from bokeh.plotting import figure

plot = figure(sizing_mode="stretch_both")
plot.line([1, 2, 3], [3, 1, 2])
curdoc().add_root(plot)
