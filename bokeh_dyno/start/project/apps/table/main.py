"""A table of points and their plot: what the visitor enters in a cell is seen in both."""

from bokeh.io import curdoc
from bokeh.layouts import column
from bokeh.models import ColumnDataSource, DataTable, Div, NumberEditor, TableColumn
from bokeh.plotting import figure

# Data
source = ColumnDataSource({"x": [1, 2, 3, 4, 5], "y": [2, 3, 5, 4, 6]})

# Plot
plot = figure(height=300, sizing_mode="stretch_width", title="NAME")
plot.line("x", "y", source=source, line_width=2)
plot.scatter("x", "y", source=source, size=10)

# Widgets
columns = [TableColumn(field=name, title=name, editor=NumberEditor(step=1)) for name in ("x", "y")]
table = DataTable(source=source, columns=columns, editable=True, height=180, sizing_mode="stretch_width")
mean = Div()


# Callbacks
def tell(attr, old, new):
    """Say what follows from the numbers that are in the table now; an empty cell is none."""
    numbers = [number for number in source.data["y"] if isinstance(number, int | float)]
    mean.text = f"The mean of y is {sum(numbers) / len(numbers):.2f}." if numbers else "There is no y."


source.on_change("data", tell)
tell("data", None, source.data)

# Layout
curdoc().title = "NAME"
curdoc().add_root(column(plot, mean, table, sizing_mode="stretch_width"))
