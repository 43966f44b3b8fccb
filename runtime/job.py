"""What the runtime must be told of a job: the seam through which launch hands it over.

Owns the Protocols. Knows nothing of configs' contents: a job travels to its processes as text.
"""

from collections.abc import Mapping, Sequence
from typing import Protocol

from torch import Tensor

from runtime.block import BlockStep, Specs
from runtime.core.plan import WorkerPlan
from runtime.faults.plan import Fault
from runtime.program import Tell
from runtime.records.schema import UnitAccuracy
from runtime.state.checkpoint import Checkpoint


class Job(Protocol):
    """One resolved job, as every process of it sees it."""

    @property
    def num_workers(self) -> int: ...
    @property
    def num_steps(self) -> int: ...
    @property
    def batch_size(self) -> int: ...
    @property
    def threads(self) -> int: ...
    @property
    def cores(self) -> int: ...
    @property
    def shares_cores(self) -> bool:
        """Whether the workers of a host have more threads than it has cores for them."""

    @property
    def link(self) -> str:
        """shm, zmq-ipc, zmq-tcp, gloo, nccl, or auto if that differs between edges."""

    @property
    def checksum(self) -> str:
        """What is guarded on the way: header, payload too, or auto (headers in shared memory)."""

    @property
    def encrypts_tensors(self) -> bool:
        """Whether what crosses a network can be read there by no one."""

    @property
    def report_every_s(self) -> float: ...
    @property
    def trace(self) -> bool:
        """Whether to write a timeline."""

    @property
    def quick_end(self) -> bool:
        """Whether to end without evaluating."""

    @property
    def patience_s(self) -> float:
        """Seconds that a worker waits for a silent neighbour: longer than any restart takes."""

    @property
    def retain_bytes(self) -> float:
        """Memory that a worker may use for what must outlive it."""

    @property
    def faults(self) -> Sequence[Fault]:
        """What is to go wrong, on purpose."""

    @property
    def final_errors(self) -> tuple[type[Exception], ...]:
        """What a block raises if another generation would only raise it again."""

    def describe(self, block_index: int, error: Exception) -> str:
        """What the user is told of such an error of worker k's, in its process."""

    @property
    def config_toml(self) -> str: ...
    @property
    def given_toml(self) -> str:
        """What the user gave, of which config_toml is what it resolved to."""

    @property
    def notes(self) -> Sequence[str]:
        """What the user should know of the job before it starts."""

    def plan(self, block_index: int) -> WorkerPlan:
        """Worker k's steps, streams and windows."""

    def specs(self, edge: int) -> Specs:
        """What crosses the edge between workers `edge` and `edge` + 1."""

    def take_device(self, block_index: int) -> None:
        """In worker k's process, before anything is computed: let it use no device but its own."""

    def build_block(self, block_index: int, tell: Tell) -> BlockStep:
        """Build worker k's block; called once, in its process, on its compute thread. `tell` is
        told which phase of that begins."""

    def carry(
        self, block_index: int, checkpoint: Checkpoint, tell: Tell
    ) -> tuple[BlockStep, Sequence[str]]:
        """Build worker k's block from a checkpoint of the same network with another cut, as far
        as that goes; return also what was carried and what was not, as short notes."""

    def unit_names(self, block_index: int) -> tuple[Sequence[str], Sequence[str]]:
        """The names of block k's home units and guest units."""

    def evaluate(self, weights: Mapping[str, Tensor], tell: Tell) -> Sequence[UnitAccuracy]:
        """Held-out accuracy after every unit, lowest first, from the weights alone. `tell` is told
        what is evaluated, and how long that can take."""
