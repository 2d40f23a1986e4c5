"""Temporary names, as joblib makes them for scikit-learn: what they are drawn from is seeded anew in each process."""

import tempfile

NAMES = tempfile._RandomNameSequence()
