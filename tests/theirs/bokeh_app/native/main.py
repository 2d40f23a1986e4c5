"""polars computes in threads of its own, which a fork would not have."""

import polars
from bokeh.io import curdoc
from bokeh.models import Div

frame = polars.DataFrame({"a": [number % 3 for number in range(30_000)], "b": range(30_000)})
groups = frame.lazy().group_by("a").agg(polars.col("b").sum()).collect()
curdoc().add_root(Div(text=f"groups {len(groups)}"))
