"""The sea_surface app; being a package, it can say `from .data import …` and collides with no other app's data.py."""
