"""The app bokeh_app/NAME, run without a server."""

import runpy
from pathlib import Path

import numpy as np

APP = Path(__file__).parent.parent / "bokeh_app" / "NAME" / "main.py"


def test_the_curve_follows_the_slider():
    app = runpy.run_path(str(APP))
    app["frequency"].value = 2
    assert np.allclose(app["source"].data["y"], np.sin(2 * app["x"]))
