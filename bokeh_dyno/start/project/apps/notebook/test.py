"""The app bokeh_app/NAME.ipynb, run as for a visitor, without a server."""

from pathlib import Path

import numpy as np
import pytest
from bokeh.application import Application
from bokeh.application.handlers import NotebookHandler
from bokeh.models import ColumnDataSource, Slider

APP = Path(__file__).parent.parent / "bokeh_app" / "NAME.ipynb"


# nbconvert wants it for the %magics of a notebook, and this one has none
@pytest.mark.filterwarnings("ignore:IPython is needed")
def test_the_curve_follows_the_slider():
    handler = NotebookHandler(filename=APP)
    document = Application(handler).create_document()
    assert not handler.failed, handler.error_detail
    source = document.select_one({"type": ColumnDataSource})
    document.select_one({"type": Slider}).value = 2
    assert np.allclose(source.data["y"], np.sin(2 * source.data["x"]))
