"""The app bokeh_app/NAME, run as for a visitor, without a server."""

from pathlib import Path

from bokeh.application import Application
from bokeh.application.handlers import DirectoryHandler
from bokeh.models import ColumnDataSource, Toggle

APP = Path(__file__).parent.parent / "bokeh_app" / "NAME"


def test_numbers_come_until_they_are_to_wait():
    handler = DirectoryHandler(filename=APP)
    document = Application(handler).create_document()
    assert not handler.failed, handler.error_detail
    source = document.select_one({"type": ColumnDataSource})
    (every,) = document.session_callbacks
    for _ in range(300):
        every.callback()
    assert source.data["n"][-1] == 300
    assert len(source.data["value"]) == 200
    document.select_one({"type": Toggle}).active = True
    every.callback()
    assert source.data["n"][-1] == 300
