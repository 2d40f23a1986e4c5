"""The app bokeh_app/NAME, run as for a visitor, without a server."""

import base64
from pathlib import Path

from bokeh.application import Application
from bokeh.application.handlers import DirectoryHandler
from bokeh.models import ColumnDataSource, Div, FileInput

APP = Path(__file__).parent.parent / "bokeh_app" / "NAME"


def test_a_file_is_drawn_and_what_is_none_is_told():
    handler = DirectoryHandler(filename=APP)
    document = Application(handler).create_document()
    assert not handler.failed, handler.error_detail
    source = document.select_one({"type": ColumnDataSource})
    file, message = document.select_one({"type": FileInput}), document.select_one({"type": Div})

    def send(content):
        change = {"kind": "ModelChanged", "model": file.ref, "attr": "value", "new": base64.b64encode(content).decode()}
        document.apply_json_patch({"events": [change]})  # as a browser does, which alone may

    send(b"when,what\n1,10\n2,20.5\n\n")
    assert source.data == {"x": [1, 2], "y": [10, 20.5]}
    assert message.text == "2 rows."
    for content, words in ((b"\xff\xfe\x00", "cannot be read"), (b"", "0 rows"), (b"1,2\n" * 20_001, "20,001 rows")):
        send(content)
        assert words in message.text
        assert source.data["x"] == [1, 2]
