"""How a worker's edges are made: which kind of link joins it to each neighbour, and at which
address.

Owns the choice between links and the order in which the two ends meet. Each worker first says
where it is, so that neighbours on one host share memory and others don't try.
"""

import logging
import os
import secrets
from collections.abc import Callable
from pathlib import Path

import zmq
from torch.distributed import Store

from runtime.block import Specs
from runtime.core.plan import Side
from runtime.job import Job
from runtime.links.channel import tcp_address, where_to_listen_again
from runtime.links.edge import EdgeLink
from runtime.links.gloo import gloo_link, opener
from runtime.links.link import End, Link, LinkError
from runtime.links.shared_memory import shm_link
from runtime.links.zeromq import zmq_link
from runtime.rendezvous import Place, Rendezvous
from runtime.state.retention import NeighboursRetention, Retention

log = logging.getLogger(__name__)


def outgoing_specs(job: Job, k: int) -> Specs:
    """What worker k sends, to both sides."""
    return {
        stream: found
        for edge in (k - 1, k)
        if 0 <= edge < job.num_workers - 1
        for stream, found in job.specs(edge).items()
        if stream.target is (Side.BELOW if edge < k else Side.ABOVE)
    }


def this_host() -> str:
    """Equal for processes that see each other's memory files and abstract sockets."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    spaces = [os.readlink(f"/proc/self/ns/{space}") for space in ("pid", "net")]
    return " ".join([boot, *spaces, f"user {os.getuid()}"])


class Connector:
    """Makes the links of worker k."""

    def __init__(
        self,
        job: Job,
        k: int,
        rendezvous: Rendezvous,
        *,
        open_store: Callable[[], Store],
        run_id: str,
        context: zmq.Context[zmq.Socket[bytes]],
    ) -> None:
        """`open_store` makes a connection to the launcher's store, for a thread of its own."""
        self._job = job
        self._k = k
        self._rendezvous = rendezvous
        self._open_store = open_store
        self._run_id = run_id
        self._context = context

    def connect(self, retention: Retention) -> dict[Side, Link]:
        """Say where this worker is, then bind and connect; waits for the neighbours.

        Raises LinkError if an edge can't be made, RendezvousError if no one comes.
        """
        place = Place(host=this_host(), memory=retention.path)
        self._rendezvous.publish_place(self._k, place)
        links: dict[Side, Link] = {}
        if self._k + 1 < self._job.num_workers:
            links[Side.ABOVE] = self._link_above(place)
        if self._k > 0:
            address = self._rendezvous.await_edge(self._k - 1)
            links[Side.BELOW] = self._make(Side.BELOW, place, connect=address)
        return links

    def _link_above(self, place: Place) -> EdgeLink:
        """Listen at an earlier generation's address if that is free, elsewhere if not."""
        known = self._rendezvous.find_edge(self._k)
        link = None
        if known is not None:
            try:
                again = where_to_listen_again(known, self._job.bind)
                link = self._make(Side.ABOVE, place, bind=again)
            except LinkError as error:
                log.warning("%s; listening elsewhere", error)
        if link is None:
            link = self._make(Side.ABOVE, place, bind=self._new_address(place))
        self._rendezvous.publish_edge(self._k, link.address)
        return link

    def _new_address(self, place: Place) -> str:
        here = self._other(Side.ABOVE).host == place.host and self._job.link in ("auto", "gloo")
        if here or self._job.link in ("shm", "zmq-ipc"):
            # An abstract address: it has no file, so nothing is left even after SIGKILL.
            return f"ipc://@loco-{self._run_id}-{self._k}-{secrets.token_hex(4)}"
        return tcp_address(self._job.bind)

    def _other(self, side: Side) -> Place:
        return self._rendezvous.await_place(self._k + (1 if side is Side.ABOVE else -1))

    def _make(
        self, side: Side, place: Place, *, bind: str | None = None, connect: str | None = None
    ) -> EdgeLink:
        """This end of the edge on a side."""
        k = self._k + (1 if side is Side.ABOVE else -1)
        specs, other = self._job.specs(min(k, self._k)), self._other(side)
        shares = self._job.link in ("auto", "shm") and other.host == place.host
        if self._job.link == "shm" and not shares:
            raise LinkError(
                f"link shm needs workers {self._k} and {k} on one host, in one process namespace;"
                " use --link auto"
            )
        end = End(
            side=side,
            run_id=self._run_id,
            specs=specs,
            guards_payload=guards_payload(self._job, shares_memory=shares),
        )
        if self._job.link == "gloo":
            open_group = opener(self._open_store, self._job.bind)
            return gloo_link(self._context, end, open_group, bind=bind, connect=connect)
        if not shares:
            return zmq_link(self._context, end, bind=bind, connect=connect)
        try:
            sent = outgoing_specs(self._job, k)
            memory = NeighboursRetention(other.memory, self._job.plan(k), sent)
        except (OSError, ValueError) as error:
            raise LinkError(
                f"the memory of worker {k} can't be shared ({error}); use --link zmq"
            ) from error
        return shm_link(self._context, end, memory, bind=bind, connect=connect)


def guards_payload(job: Job, *, shares_memory: bool) -> bool:
    """Whether tensors have a checksum on their way."""
    return job.checksum == "payload" or (job.checksum == "auto" and not shares_memory)
