"""Ties a process's life to its parent's, so that nothing outlives a run.

Owns the kernel's parent-death signal. Preloaded into the fork server, which so dies with its
keeper, as each worker dies with the fork server.
"""

import ctypes
import signal

PR_SET_PDEATHSIG = 1


def die_with_parent() -> None:
    """Have the kernel kill this process (SIGKILL) when the thread that started it ends.

    Does not outlive a fork: each process says it for itself. Raises OSError where the kernel
    refuses.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
