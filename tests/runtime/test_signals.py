"""A signal to any of a job's processes comes to its keeper; what user code starts has defaults."""

import signal
import subprocess
import sys

from runtime.signals import END, STOPS, relayed

# A keeper in small, and a child of it that is told each signal, and forks. Not in the tests' own
# process: pytest's faulthandler has signals handled on a small stack of their own, which a burst of
# them overflows.
KEEPER = """
import signal, subprocess, sys
from runtime.signals import STOPS, relayed
heard = []
for number in map(relayed, STOPS):
    signal.signal(number, lambda number, frame: heard.append(number))
subprocess.run([sys.executable, "-c", sys.argv[1]], check=True)
print(*sorted(heard))
"""
CHILD = """
import os, signal
from runtime.signals import STOPS, relay_to
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
relay_to(os.getppid())
for number in STOPS:
    os.kill(os.getpid(), number)
if os.fork() == 0:
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    kinds = {getattr(signal.getsignal(number), "name", "python's") for number in STOPS}
    print(*sorted(kinds), len(blocked), flush=True)
    os._exit(0)
os.wait()
"""


def test_signals_of_a_process_reach_its_keeper_alone():
    """User code has the defaults. A scheduler's USR1 reached a worker, which died of it without a
    checkpoint; and a user's pool could not be ended, since its processes had inherited an ignored
    SIGTERM."""
    command = [sys.executable, "-c", KEEPER, CHILD]
    forked, heard = subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout.splitlines()
    assert heard.split() == [str(number).encode() for number in sorted(map(relayed, STOPS))]
    assert forked == b"SIG_DFL python's 0"


def test_signals_relayed_are_all_different():
    numbers = [*STOPS, *map(relayed, STOPS), END]
    assert len(set(numbers)) == len(numbers)
    assert all(signal.SIGRTMIN < relayed(number) < END for number in STOPS)
