"""The bodies of the keeper's children, imported where they run: the keeper stays light."""

from multiprocessing.connection import Connection

from runtime.program import Life, Meeting, Program


def coordinator(program: Program, meeting: Meeting, life: Life, keeper: Connection) -> None:
    """Run the coordinator in this process."""
    from runtime.coordinator import run_coordinator

    run_coordinator(program, meeting, life, keeper)


def worker(program: Program, meeting: Meeting, k: int, life: Life, keeper: Connection) -> None:
    """Run worker k in this process."""
    from runtime.worker import run_worker

    run_worker(program, meeting, k, life, keeper)
