"""Which signals stop a job, and how one that reaches any of its processes comes to the keeper.

Owns the numbers and the handlers of the keeper's children. A scheduler signals all processes of
a job at once, or any one of them; what becomes of the job is the keeper's decision.
"""

import contextlib
import os
import signal
from types import FrameType

# Ctrl-C, a launcher's or a scheduler's end, a closed terminal, and warnings of schedulers (SLURM's
# --signal=USR1@60): each stops the job at a checkpoint.
STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
END = signal.SIGRTMAX  # from the keeper alone: leave at once, and in order


class Ended(BaseException):
    """The keeper wants this process to leave. No error: whoever handles errors must not take it."""


def leave_when_told() -> None:
    """Raise Ended on the main thread when the keeper sends END."""

    def leave(number: int, frame: FrameType | None) -> None:
        del number, frame
        raise Ended

    signal.signal(END, leave)


def relayed(number: int) -> int:
    """The signal by which a child tells its keeper that it got signal `number`."""
    return signal.SIGRTMIN + number


def relay_to(keeper_pid: int) -> None:
    """Pass every signal that stops a job on to the keeper, and go on; forked children get the
    default actions instead.

    To be called on the main thread, once in a process.
    """

    def relay(number: int, frame: FrameType | None) -> None:
        del frame
        with contextlib.suppress(ProcessLookupError):  # then the kernel ends this process too
            os.kill(keeper_pid, relayed(number))

    for number in STOPS:
        signal.signal(number, relay)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    os.register_at_fork(after_in_child=_restore_defaults)


def _restore_defaults() -> None:
    """What a user's code starts can be ended as any process can; a pool ends its own by SIGTERM."""
    for number in (*STOPS, END):
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
