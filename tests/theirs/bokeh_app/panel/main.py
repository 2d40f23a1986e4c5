"""Panel: its own models, scripts and stylesheets, and an extension."""

import pandas
import panel

panel.extension("tabulator")
slider = panel.widgets.IntSlider(name="n", start=0, end=9, value=3)
table = panel.widgets.Tabulator(pandas.DataFrame({"a": [1, 2]}))
panel.Column(slider, panel.bind(lambda n: f"squared {n * n}", slider), table).servable()
