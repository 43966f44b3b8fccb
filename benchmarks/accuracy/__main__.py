"""Starts python -m benchmarks.accuracy."""

import sys

from benchmarks.accuracy.runs import app

app(sys.argv[1:])
