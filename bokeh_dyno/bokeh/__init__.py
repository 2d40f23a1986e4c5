"""The `bokeh` process: a master, and the workers of the Bokeh server that it forks."""


class BokehError(RuntimeError):
    """The Bokeh server cannot start or go on; the message says why in one line."""
