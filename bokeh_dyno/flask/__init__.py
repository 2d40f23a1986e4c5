"""The `flask` process: gunicorn's configuration (gunicorn.py), and the Flask extension (embed.py)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bokeh_dyno.shared.visitor import network

if TYPE_CHECKING:
    from bokeh_dyno.flask.embed import BokehApps

__all__ = ["BokehApps", "network"]


def __getattr__(name: str) -> type[BokehApps]:
    # not at once: gunicorn's configuration is in this package, and has something to do before Flask is imported
    if name == "BokehApps":
        from bokeh_dyno.flask.embed import BokehApps

        return BokehApps
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
