"""scikit-learn computes in threads of OpenMP, which a fork would not have."""

import numpy
from bokeh.io import curdoc
from bokeh.models import Div
from sklearn.cluster import KMeans

points = numpy.random.default_rng(0).normal(size=(3000, 2))
curdoc().add_root(Div(text=f"clusters {len(set(KMeans(4, n_init=2).fit(points).labels_))}"))
