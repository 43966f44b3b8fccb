"""Starts python -m benchmarks.accuracy."""

from benchmarks.accuracy.runs import accuracy
from benchmarks.harness import run_command

run_command(accuracy)
