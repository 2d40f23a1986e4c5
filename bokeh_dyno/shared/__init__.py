"""The ground that the processes stand on. Nothing here imports from the rooms above: start, flask, bokeh and page."""
