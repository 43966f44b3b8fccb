"""The coordinator's socket: what workers say to it, and what it answers.

Owns what is believed: on a network the worker is the one whose key admitted it, whatever it says of
itself. What is no message of a worker is dropped and counted, and never an error here.
"""

import contextlib
import logging
from collections.abc import Iterator
from typing import NamedTuple

import msgpack
import zmq

from runtime.links.admission import CurveKeys
from runtime.links.channel import bind_for_this_user, endpoint
from runtime.links.doorkeeper import Doorkeeper
from runtime.links.tensor_bytes import CHUNK_BYTES
from runtime.links.zeromq import HEADER_LIMIT_BYTES
from runtime.records.schema import Report, WorkerResult, checked, from_dict
from runtime.trust.keys import RunKeys

log = logging.getLogger(__name__)

MOST_TAKEN = 256  # messages in a turn
LOGGED_REFUSALS = 20


class Result(NamedTuple):
    """What a worker hands in, and its weights."""

    result: WorkerResult
    weights: bytes


class Left(NamedTuple):
    """A worker has been told that it may leave, and does."""

    block: int


Said = Report | Result | Left


class Heard(NamedTuple):
    """What was said, and by whom, to answer."""

    said: Said
    identity: bytes


class Reception:
    """Listens at an address for the workers of one run; `keys` are those of the run."""

    def __init__(
        self,
        context: "zmq.Context[zmq.Socket[bytes]]",
        bind: str,
        *,
        keys: RunKeys,
        num_workers: int,
    ) -> None:
        """Raises zmq.ZMQError if the address can't be used."""
        self._num_workers = num_workers
        self._num_dropped = 0
        self._is_on_network = bind.startswith("tcp://")
        self._doorkeeper = Doorkeeper(context) if self._is_on_network else None
        self._socket: zmq.Socket[bytes] = context.socket(zmq.ROUTER)
        self._socket.setsockopt(zmq.LINGER, 0)  # who has not heard it is told again
        self._socket.setsockopt(zmq.MAXMSGSIZE, CHUNK_BYTES + HEADER_LIMIT_BYTES)
        self._socket.setsockopt(zmq.ROUTER_HANDOVER, 1)
        try:
            if self._is_on_network:
                peers = {keys.worker(k).public: str(k) for k in range(num_workers)}
                CurveKeys(keys.coordinator, self._doorkeeper, peers=peers).guard(self._socket)
            bind_for_this_user(self._socket, bind)
        except zmq.ZMQError:
            self.close()
            raise

    @property
    def address(self) -> str:
        """Where workers connect."""
        return endpoint(self._socket)

    @property
    def num_refused(self) -> int:
        """Connections and messages that were no worker's."""
        strangers = 0 if self._doorkeeper is None else self._doorkeeper.num_refused
        return self._num_dropped + strangers

    def take(self, timeout_ms: int) -> Iterator[Heard]:
        """What workers say within this time, and behind that what is there; not without end."""
        for _ in range(MOST_TAKEN):
            if not self._socket.poll(timeout_ms):
                return
            timeout_ms = 0
            frames = self._socket.recv_multipart(copy=False)
            identity = frames[0].bytes
            try:
                block, generation = self._who(frames[0], identity)
                said = _read([frame.bytes for frame in frames[1:]], block)
                if isinstance(said, Report) and said.generation != generation:
                    raise ValueError(f"a report of generation {said.generation}")
            except (ValueError, TypeError, KeyError, AttributeError, IndexError) as error:
                self._drop(identity, error)
            except (msgpack.UnpackException, RecursionError, zmq.ZMQError) as error:
                self._drop(identity, error)
            else:
                yield Heard(said, identity)

    def _who(self, frame: zmq.Frame, identity: bytes) -> tuple[int, int]:
        """The block and generation of who speaks."""
        block, generation = (int(part) for part in identity.decode("ascii").split("/"))
        if self._is_on_network and frame.get("User-Id") != str(block):
            raise ValueError(f"worker {frame.get('User-Id')} says that it is worker {block}")
        if not 0 <= block < self._num_workers:
            raise ValueError(f"there is no worker {block}")
        return block, generation

    def _drop(self, identity: bytes, error: Exception) -> None:
        self._num_dropped += 1
        if self._num_dropped <= LOGGED_REFUSALS:
            log.warning("%r said what is no message of a worker: %s", identity[:64], error)

    def ask_for_result(self, identity: bytes) -> None:
        """Ask a worker that has finished to hand in."""
        self._send(identity, b"hand-in")

    def let_go(self, identity: bytes) -> None:
        """Tell a worker that the result is durable."""
        self._send(identity, b"leave")

    def _send(self, identity: bytes, order: bytes) -> None:
        with contextlib.suppress(zmq.Again):  # it is asked again with its next report
            self._socket.send_multipart([identity, order], zmq.NOBLOCK)

    def close(self) -> None:
        self._socket.close()
        if self._doorkeeper is not None:
            self._doorkeeper.close()


def _read(frames: list[bytes], block: int) -> Said:
    """What the frames of a message say. Raises ValueError and others if it is none."""
    kind, *rest = frames
    if kind == b"left" and not rest:
        return Left(block)
    num_frames = int(rest[0])
    packed, weights = b"".join(rest[1 : 1 + num_frames]), rest[1 + num_frames :]
    said: Report | WorkerResult
    if kind == b"report" and not weights:
        said = checked(from_dict(Report, msgpack.unpackb(packed)))
    elif kind == b"result":
        said = checked(from_dict(WorkerResult, msgpack.unpackb(packed)))
    else:
        raise ValueError(f"a message of kind {kind[:16]!r}")
    if said.block != block:
        raise ValueError(f"worker {block} speaks of block {said.block}")
    return said if isinstance(said, Report) else Result(said, b"".join(weights))
