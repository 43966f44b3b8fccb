"""What a worker is doing, in one word."""

from enum import Enum


class State(Enum):
    """The state of the computation that is not known to be done; `value` is shown to people."""

    LINKING = "linking"
    WAIT_CREDIT = "wait_credit"
    WAIT_INPUT = "wait_input"
    FORWARD = "forward"
    UPDATE = "update"
    WAIT_TIE = "wait_tie"
    APPLY = "apply"
    DRAINING = "draining"
    DONE = "done"


STATES = tuple(State)
COMPUTING = (State.FORWARD, State.UPDATE, State.APPLY)
