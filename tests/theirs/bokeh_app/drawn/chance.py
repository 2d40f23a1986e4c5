"""A source of random numbers that an import makes."""

import numpy

source = numpy.random.default_rng()
