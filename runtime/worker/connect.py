"""How a worker's edges are made: which kind of link joins it to each neighbour, at which address,
and how the two know each other.

Owns the choice between links and the order in which the two ends meet. Each worker first says
where it is, so that neighbours on one host share memory and others don't try.
"""

import logging
from functools import partial

import zmq

from runtime.block import Specs
from runtime.core.plan import Side
from runtime.host import this_host
from runtime.job import Job
from runtime.links.admission import Admission, CurveKeys, Tokens
from runtime.links.channel import tcp_address
from runtime.links.doorkeeper import Doorkeeper
from runtime.links.edge import EdgeLink
from runtime.links.groups import OPENERS
from runtime.links.guards import Macs
from runtime.links.link import End, Link, LinkError
from runtime.links.shared_memory import shm_link
from runtime.links.torch_distributed import group_link
from runtime.links.zeromq import zmq_link
from runtime.program import Meeting
from runtime.rendezvous import Place, Rendezvous
from runtime.state.retention import NeighboursRetention, Retention
from runtime.state.status_page import Page
from runtime.store import open_store
from runtime.trust.keys import RunKeys

log = logging.getLogger(__name__)


def outgoing_specs(job: Job, block_index: int) -> Specs:
    """What worker k sends, to both sides."""
    return {
        stream: found
        for edge in (block_index - 1, block_index)
        if 0 <= edge < job.num_workers - 1
        for stream, found in job.specs(edge).items()
        if stream.target is (Side.BELOW if edge < block_index else Side.ABOVE)
    }


class Connector:
    """Makes the links of worker k."""

    def __init__(
        self,
        job: Job,
        block_index: int,
        rendezvous: Rendezvous,
        *,
        meeting: Meeting,
        run_id: str,
        page: Page,
        context: zmq.Context[zmq.Socket[bytes]],
    ) -> None:
        """`page` has the counts that one-use tokens stand on."""
        self._job = job
        self._block_index = block_index
        self._rendezvous = rendezvous
        self._meeting = meeting
        self._run_id = run_id
        self._keys = RunKeys(meeting.secret, run_id)
        self._page = page
        self._context = context
        self._doorkeeper: Doorkeeper | None = None
        self.shared: list[NeighboursRetention] = []  # neighbours' memory that is read where it lies

    @property
    def num_refused(self) -> int:
        """Connections of strangers to this worker's sockets."""
        return 0 if self._doorkeeper is None else self._doorkeeper.num_refused

    def close(self) -> None:
        """Admit no one any more."""
        if self._doorkeeper is not None:
            self._doorkeeper.close()

    def connect(self, retention: Retention) -> dict[Side, Link]:
        """Say where this worker is, then bind and connect; waits for the neighbours.

        Raises LinkError if an edge can't be made, RendezvousError if no one comes.
        """
        place = Place(host=this_host(), memory=retention.path, nonce=self._meeting.nonce)
        self._rendezvous.publish_place(self._block_index, place)
        links: dict[Side, Link] = {}
        if self._block_index + 1 < self._job.num_workers:
            links[Side.ABOVE] = self._link_above(place, retention)
        if self._block_index > 0:
            address = self._rendezvous.await_edge(self._block_index - 1)
            links[Side.BELOW] = self._make(Side.BELOW, place, retention, connect=address)
        return links

    def _link_above(self, place: Place, retention: Retention) -> EdgeLink:
        """Listen at an earlier generation's address if that is free, elsewhere if not."""
        known = self._rendezvous.find_edge(self._block_index)
        make = partial(self._make, Side.ABOVE, place, retention)
        link = None
        if known is not None:
            try:
                link = make(bind=known)
            except LinkError as error:
                log.warning("%s; listening elsewhere", error)
        if link is None:
            link = make(bind=self._new_address(place))
        self._rendezvous.publish_edge(self._block_index, link.address)
        return link

    def _new_address(self, place: Place) -> str:
        here = self._other(Side.ABOVE).host == place.host and self._job.link in ("auto", *OPENERS)
        if here or self._job.link in ("shm", "zmq-ipc"):
            # In a directory that no other user can enter: an abstract address is anyone's to take.
            return f"ipc://{self._meeting.directory}/edge-{self._block_index}"
        return tcp_address(self._meeting.address)

    def _other(self, side: Side) -> Place:
        return self._rendezvous.await_place(self._block_index + (1 if side is Side.ABOVE else -1))

    def _make(
        self,
        side: Side,
        place: Place,
        retention: Retention,
        *,
        bind: str | None = None,
        connect: str | None = None,
    ) -> EdgeLink:
        """This end of the edge on a side."""
        edge = self._block_index - (side is Side.BELOW)
        neighbour = self._block_index + (1 if side is Side.ABOVE else -1)
        other = self._other(side)
        shares = self._job.link in ("auto", "shm") and other.host == place.host
        if self._job.link == "shm" and not shares:
            raise LinkError(
                f"link shm needs workers {self._block_index} and {neighbour} on one host, in one"
                " process namespace; use --link auto"
            )
        on_network = self._on_network(bind or connect or "")
        is_lower = side is Side.ABOVE
        opener = OPENERS.get(self._job.link)
        is_signed = on_network or opener is not None  # a group's tensors always cross a network
        end = End(
            side=side,
            run_id=self._run_id,
            specs=self._job.specs(edge),
            guards_payload=guards_payload(self._job, shares_memory=shares),
            macs=Macs(self._keys.edge(edge, is_lower=is_lower)) if is_signed else None,
        )
        if (make := end.guard.makes_hash) is not None:
            retention.hash |= dict.fromkeys(end.outgoing, make)
        admission = self._admission(edge, is_lower=is_lower) if on_network else None
        if opener is not None:
            open_group = opener(partial(open_store, self._meeting.store), self._meeting.address)
            return group_link(
                self._context, end, open_group, bind=bind, connect=connect, admission=admission
            )
        if not shares:
            return zmq_link(self._context, end, bind=bind, connect=connect, admission=admission)
        try:
            sent = outgoing_specs(self._job, neighbour)
            memory = NeighboursRetention(other.memory, self._job.plan(neighbour), sent)
        except (OSError, ValueError) as error:
            raise LinkError(
                f"the memory of worker {neighbour} can't be shared ({error}); use --link zmq"
            ) from error
        link = shm_link(self._context, end, memory, bind=bind, connect=connect)
        self.shared.append(memory)
        return link

    @staticmethod
    def _on_network(address: str) -> bool:
        """Whether others than this user's processes can reach an address."""
        return address.startswith("tcp://")

    def _admission(self, edge: int, *, is_lower: bool) -> Admission:
        """How the two ends of an edge know each other on a network."""
        if self._doorkeeper is None:
            self._doorkeeper = Doorkeeper(self._context)
        if not self._job.encrypts_tensors:
            token = self._keys.edge(edge, is_lower=is_lower).token
            return Tokens(token, self._page, self._doorkeeper)
        own, other = (self._keys.edge_pair(edge, is_lower=e) for e in (is_lower, not is_lower))
        return CurveKeys(
            own, self._doorkeeper, server=other.public, peers={other.public: "neighbour"}
        )


def guards_payload(job: Job, *, shares_memory: bool) -> bool:
    """Whether tensors have a checksum on their way."""
    return job.checksum == "payload" or (job.checksum == "auto" and not shares_memory)
