"""Classes of models that main.py defines: Bokeh knows them for longer than the module lives."""

from bokeh.core.properties import Int
from bokeh.io import curdoc
from bokeh.model import DataModel
from bokeh.models import ColumnDataSource, Div


class Point(DataModel):
    n = Int(default=3)


class Source(ColumnDataSource):
    __view_model__ = "ColumnDataSource"
    __view_module__ = "bokeh.models.sources"


curdoc().add_root(Div(text=f"model {Point().n}", tags=[Source(data={"x": [1]})]))
curdoc().add_root(Point())
