"""Starts python -m benchmarks.hosts."""

from benchmarks.harness import run_command
from benchmarks.hosts.campaign import main

run_command(main)
