"""The app bokeh_app/NAME, run as for a visitor, without a server."""

from pathlib import Path

from bokeh.application import Application
from bokeh.application.handlers import DirectoryHandler
from bokeh.models import ColumnDataSource, Div

APP = Path(__file__).parent.parent / "bokeh_app" / "NAME"


def test_the_mean_follows_the_table():
    handler = DirectoryHandler(filename=APP)
    document = Application(handler).create_document()
    assert not handler.failed, handler.error_detail
    mean = document.select_one({"type": Div})
    assert mean.text == "The mean of y is 4.00."
    document.select_one({"type": ColumnDataSource}).patch({"y": [(0, 7)]})  # as the browser does for a cell
    assert mean.text == "The mean of y is 5.00."
