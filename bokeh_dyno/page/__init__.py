"""What a browser gets: the page's script, BokehJS, and whatever else a document needs."""
