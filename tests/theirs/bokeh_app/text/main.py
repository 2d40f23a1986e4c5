"""Blocks of a page as the template."""

from bokeh.io import curdoc
from bokeh.models import Div

curdoc().template = "{% block contents %}<h1>above</h1>{{ super() }}{% endblock %}"
curdoc().add_root(Div(text="templated"))
