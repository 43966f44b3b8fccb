"""Starts python -m benchmarks.throughput."""

from benchmarks.harness import run_command
from benchmarks.throughput.runs import main

run_command(main)
