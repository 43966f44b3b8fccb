"""Starts python -m benchmarks.gpu; with --needs on a machine that has no package of ours yet."""

import sys

if "--needs" in sys.argv[1:]:
    from benchmarks.gpu.needs import print_needs

    print_needs()
else:
    from benchmarks.gpu.script import main
    from benchmarks.harness import run_command

    run_command(main)
