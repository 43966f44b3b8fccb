"""Which link joins two workers, at which address, and what each of them sends."""

from types import SimpleNamespace

import pytest

from runtime.block import TensorSpec
from runtime.core.plan import Side, Stream
from runtime.links.admission import CurveKeys, Tokens
from runtime.links.link import LinkError
from runtime.program import Meeting, StoreAddress
from runtime.rendezvous import Place
from runtime.worker import connect
from runtime.worker.connect import Connector, guards_payload, outgoing_specs

SPEC = (TensorSpec(shape=(2,), dtype="float32"),)
HERE, THERE = "this host", "another host"


class Job:
    """Three workers, tied; edge 1 carries no downward tie."""

    num_workers = 3

    def __init__(self, link: str = "auto", *, checksum: str = "auto"):
        self.link, self.checksum = link, checksum
        self.encrypts_tensors = False

    def specs(self, edge: int):
        streams = list(Stream) if edge == 0 else [Stream.ACTIVATION, Stream.TIE_UP]
        return dict.fromkeys(streams, SPEC)

    def plan(self, k: int) -> str:
        return f"plan {k}"


class Board:
    """A rendezvous on which the neighbours' places and edges are written beforehand."""

    def __init__(self, host: str = HERE, **edges: str) -> None:
        self.places = {k: Place(host=host, memory=f"memory {k}") for k in (0, 2)}
        self.edges = {int(name[1:]): address for name, address in edges.items()}

    def publish_place(self, k: int, place: Place) -> None:
        self.places[k] = place

    def await_place(self, k: int) -> Place:
        return self.places[k]

    def publish_edge(self, edge: int, address: str) -> None:
        self.edges[edge] = address

    def find_edge(self, edge: int) -> str | None:
        return self.edges.get(edge)

    def await_edge(self, edge: int) -> str:
        return self.edges[edge]


@pytest.fixture
def made(monkeypatch) -> list[SimpleNamespace]:
    """The links that were made: fakes that tell what they were made of."""
    made: list[SimpleNamespace] = []

    def maker(kind: str):
        def make(context, end, *rest, bind=None, connect=None, admission=None):
            if bind == "tcp://10.0.0.7:99":
                raise LinkError("address in use")
            address = None if bind is None else bind.replace("*", "7")
            link = SimpleNamespace(
                kind=kind,
                end=end,
                rest=rest,
                bind=bind,
                connect=connect,
                address=address,
                admission=admission,
            )
            made.append(link)
            return link

        return make

    for kind in ("zmq", "shm", "group"):
        monkeypatch.setattr(connect, f"{kind}_link", maker(kind))
    monkeypatch.setattr(connect, "NeighboursRetention", lambda *given: given)
    openers = {name: lambda *given, name=name: (name, *given) for name in ("gloo", "nccl")}
    monkeypatch.setattr(connect, "OPENERS", openers)
    monkeypatch.setattr(connect, "this_host", lambda: HERE)
    monkeypatch.setattr(connect, "Doorkeeper", lambda context: "doorkeeper")
    return made


def join(job: Job, board: Board, k: int = 1) -> dict[Side, SimpleNamespace]:
    links, _ = join_and_share(job, board, k)
    return links


def join_and_share(job: Job, board: Board, k: int = 1) -> tuple[dict[Side, SimpleNamespace], list]:
    """The links, and the neighbours' memory that is read where it lies."""
    meeting = Meeting(
        store=StoreAddress(),
        keeper_pid=1,
        secret=b"secret",
        nonce="keeper",
        directory="/private",
        address="10.0.0.7",
    )
    connector = Connector(job, k, board, meeting=meeting, run_id="run", page=None, context=None)
    links = connector.connect(SimpleNamespace(path=f"memory {k}", hash={}))
    return links, connector.shared


# What is sent -----------------------------------------------------------------------------------


def test_outgoing_specs_are_of_both_sides_and_of_this_worker():
    assert outgoing_specs(Job(), 0).keys() == {Stream.ACTIVATION, Stream.TIE_UP}
    assert outgoing_specs(Job(), 1).keys() == set(Stream)
    assert outgoing_specs(Job(), 2).keys() == set()


@pytest.mark.parametrize(
    ("checksum", "guards"),
    [("auto", (False, True)), ("payload", (True, True)), ("header", (False, False))],
)
def test_payload_is_guarded_on_a_wire_or_if_it_is_asked_for(checksum, guards):
    job = Job(checksum=checksum)
    assert tuple(guards_payload(job, shares_memory=shares) for shares in (True, False)) == guards


# Which link -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("link", "host", "kind", "scheme"),
    [
        ("auto", HERE, "shm", "ipc:///private/edge-1"),
        ("auto", THERE, "zmq", "tcp://10.0.0.7:*"),
        ("shm", HERE, "shm", "ipc:///private/edge-1"),
        ("zmq-ipc", HERE, "zmq", "ipc:///private/edge-1"),
        ("zmq-tcp", HERE, "zmq", "tcp://10.0.0.7:*"),
        ("gloo", HERE, "group", "ipc:///private/edge-1"),
        ("gloo", THERE, "group", "tcp://10.0.0.7:*"),
        ("nccl", HERE, "group", "ipc:///private/edge-1"),
    ],
)
def test_link_follows_from_the_wish_and_the_neighbours_host(made, link, host, kind, scheme):
    links = join(Job(link), Board(host, e0="edge 0"))
    assert list(links) == [Side.ABOVE, Side.BELOW]
    assert [link.kind for link in made] == [kind, kind]
    assert links[Side.ABOVE].bind.startswith(scheme)
    assert (links[Side.BELOW].connect, links[Side.BELOW].bind) == ("edge 0", None)
    assert [link.end.side for link in made] == [Side.ABOVE, Side.BELOW]
    assert [link.end.guards_payload for link in made] == [kind != "shm"] * 2
    assert links[Side.BELOW].end.specs.keys() == set(Stream)
    assert Stream.TIE_DOWN not in links[Side.ABOVE].end.specs


def test_neighbours_memory_is_opened_by_its_plan_and_specs(made):
    links, shared = join_and_share(Job(), Board(e0="edge 0"))
    assert shared == [*links[Side.ABOVE].rest, *links[Side.BELOW].rest]
    ((path, plan, specs),) = links[Side.BELOW].rest
    assert (path, plan, specs.keys()) == ("memory 0", "plan 0", {Stream.ACTIVATION, Stream.TIE_UP})
    ((path, plan, specs),) = links[Side.ABOVE].rest
    assert (path, plan, specs) == ("memory 2", "plan 2", {})


def test_worker_at_an_end_has_one_neighbour(made):
    board = Board(e1="edge 1")
    board.places[1] = Place(host=HERE, memory="memory 1", nonce="keeper")
    assert list(join(Job(), board, 0)) == [Side.ABOVE]
    assert list(join(Job(), board, 2)) == [Side.BELOW]


def test_shared_memory_between_hosts_is_refused_with_a_remedy(made):
    with pytest.raises(LinkError, match=r"shm needs workers 1 and 2 on one host.*--link auto"):
        join(Job("shm"), Board(THERE, e0="edge 0"))
    assert made == []


def test_memory_that_can_not_be_mapped_is_refused_with_a_remedy(made, monkeypatch):
    def refuse(*given: object) -> None:
        raise OSError("permission denied")

    monkeypatch.setattr(connect, "NeighboursRetention", refuse)
    with pytest.raises(LinkError, match=r"worker 2 can't be shared \(permission denied\).*zmq"):
        join(Job(), Board(e0="edge 0"))


# At which address -------------------------------------------------------------------------------


def test_address_is_published_as_others_reach_it(made):
    board = Board(THERE, e0="edge 0")
    join(Job(), board)
    assert board.edges[1] == "tcp://10.0.0.7:7"
    assert board.places[1] == Place(host=HERE, memory="memory 1", nonce="keeper")


def test_next_generation_listens_at_the_known_address(made):
    board = Board(THERE, e0="edge 0", e1="tcp://10.0.0.7:55")
    assert join(Job(), board)[Side.ABOVE].bind == "tcp://10.0.0.7:55"
    board = Board(e0="edge 0", e1="ipc:///private/edge-1")
    assert join(Job(), board)[Side.ABOVE].bind == "ipc:///private/edge-1"


def test_known_address_that_is_in_use_gives_way_to_a_new_one(made, caplog):
    board = Board(THERE, e0="edge 0", e1="tcp://10.0.0.7:99")
    assert join(Job(), board)[Side.ABOVE].bind == "tcp://10.0.0.7:*"
    assert board.edges[1] == "tcp://10.0.0.7:7"
    assert "address in use; listening elsewhere" in caplog.text


# Who is let in ----------------------------------------------------------------------------------


def test_edge_on_a_network_is_signed_and_admits_by_tokens(made):
    links = join(Job("zmq-tcp"), Board(THERE, e0="tcp://node0:5"))
    assert all(link.end.macs is not None for link in made)
    assert all(isinstance(link.admission, Tokens) for link in links.values())


def test_edge_that_is_encrypted_admits_by_keys(made):
    job = Job("zmq-tcp")
    job.encrypts_tensors = True
    links = join(job, Board(THERE, e0="tcp://node0:5"))
    assert all(isinstance(link.admission, CurveKeys) for link in links.values())


def test_edge_within_a_host_is_this_users_alone_and_unsigned(made):
    join(Job("zmq-ipc"), Board(e0="ipc:///private/edge-0"))
    assert [(link.end.macs, link.admission) for link in made] == [(None, None)] * 2


@pytest.mark.parametrize("link", ["gloo", "nccl"])
def test_tensors_by_a_group_are_signed_within_a_host_too(made, link):
    """They cross its loopback, whoever may listen there."""
    join(Job(link), Board(e0="ipc:///private/edge-0"))
    assert [name for one in made for name, *_ in one.rest] == [link] * 2
    assert all(link.end.macs is not None for link in made)
    assert [link.admission for link in made] == [None] * 2, "its headers go by a private socket"
