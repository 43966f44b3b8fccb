"""What faults do to simulated messages: which one is struck, and what is left of it."""

import random

import pytest

from runtime.core.messages import Ack, Data, Received, Rejected, Stop
from runtime.core.plan import Side, Stream
from runtime.core.worker import WorkerCore
from runtime.faults.plan import parse
from runtime.testing.faulty_edges import FaultyEdges, edge_of, messages_of_the_dead
from runtime.testing.hashed_blocks import Case

UP = (1, 2)
ACK = Ack(stream=Stream.ACTIVATION, generation=0, to=0, expected=1, released=1, durable=1)


def data(step: int) -> Data:
    return Data(stream=Stream.ACTIVATION, step=step, generation=0, to=0, checksum=0)


class Never(random.Random):
    """Draws that leave every fault to payloads."""

    def random(self) -> float:
        return 0.99


def edges(faults: str, *, silent: tuple[tuple[int, int], ...] = ()) -> FaultyEdges:
    return FaultyEdges(parse(faults), Never(), silent=set(silent))


def received(message) -> Received:
    return Received(side=Side.BELOW, message=message)


# Which message ----------------------------------------------------------------------------------


def test_fault_strikes_the_first_payload_from_its_step_on_once():
    faulty = edges("drop:1-2@3")
    assert faulty.strike(UP, data(2), step=9) is None
    assert faulty.strike(UP, ACK, step=9) is None
    assert faulty.strike((2, 1), data(4), step=9) is None
    assert faulty.strike(UP, data(4), step=0).kind == "drop"
    assert faulty.strike(UP, data(5), step=9) is None


def test_fault_of_a_silent_direction_strikes_any_message():
    faulty = edges("drop:1-2@3", silent=(UP,))
    assert faulty.strike(UP, ACK, step=2) is None
    assert faulty.strike(UP, ACK, step=3).kind == "drop"


def test_faults_of_one_edge_strike_one_after_the_other():
    faulty = edges("drop:1-2@3,corrupt:1-2@3")
    kinds = [faulty.strike(UP, data(3), step=3).kind for _ in range(2)]
    assert kinds == ["drop", "corrupt"]
    assert faulty.strike(UP, data(3), step=3) is None


# What becomes of it -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "left_of_data", "left_of_ack"),
    [
        ("drop", None, None),
        ("corrupt-header", None, None),
        ("corrupt", Rejected(stream=Stream.ACTIVATION), None),
        ("truncate", Rejected(stream=Stream.ACTIVATION), None),
        ("delay", received(data(3)), received(ACK)),
        ("cut", None, None),
    ],
)
def test_message_is_lost_rejected_or_passed_by_its_fault(kind, left_of_data, left_of_ack):
    for message, left in ((data(3), left_of_data), (ACK, left_of_ack)):
        (fault,) = parse(f"{kind}:1-2@3")
        faulty = edges("")
        assert faulty.pass_on(fault, 1, received(message), 0.0) == left


def test_partition_lets_nothing_pass_either_way_until_it_ends():
    (fault,) = parse("partition:1-2@3")
    faulty = edges("")
    assert faulty.pass_on(fault, 1, received(data(3)), 2.0) is None
    assert faulty.epochs == {1: 1}  # what was on its way is lost too
    for now_s, passes in ((2.0 + 0.9 * fault.amount, False), (2.0 + fault.amount, True)):
        assert (faulty.pass_on(None, 1, received(ACK), now_s) is not None) is passes
    assert faulty.pass_on(None, 0, received(ACK), 2.0) is not None


# The dead ---------------------------------------------------------------------------------------


def test_dead_generation_would_be_believed_but_for_its_number():
    core = WorkerCore(Case(num_workers=3, num_steps=5, lag=1, tied=True, size=2).plan(1))
    below, above = (messages_of_the_dead(7, core, side) for side in (Side.BELOW, Side.ABOVE))
    assert {message.side for message in below} == {Side.BELOW}
    assert {message.message.generation for message in below + above} == {7}
    kinds = [[type(m.message) for m in found] for found in (below, above)]
    assert kinds == [[Data, Data, Ack, Stop], [Data, Ack, Ack]]


def test_edge_is_named_by_its_lower_worker():
    assert edge_of(1, Side.ABOVE) == (2, 1)
    assert edge_of(1, Side.BELOW) == (0, 0)
