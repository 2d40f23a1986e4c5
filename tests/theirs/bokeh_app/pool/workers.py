"""A pool of processes that an import starts and nobody ends."""

from concurrent.futures import ProcessPoolExecutor

pool = ProcessPoolExecutor(2)
