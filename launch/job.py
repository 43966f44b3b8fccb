"""What a resolved config becomes: blocks, what crosses each edge, and each worker's plan.

Joins models and runtime, and is the only place that knows both a network and a stream.
"""

from collections.abc import Mapping
from functools import cached_property

import safetensors.torch
import torch
from torch import Tensor

from launch.config import ResolvedConfig
from launch.config_file import from_toml, to_toml
from launch.cores import usable_cores
from launch.evaluated_units import evaluated_units
from launch.gpus import see_only, visible_gpus
from launch.launcher import Launcher
from launch.planning.memory import block_memory, out_of_memory
from launch.planning.notes import notes_on
from launch.planning.partition import Partition
from launch.planning.resolved import Resolved
from launch.planning.streams import edge_specs, worker_plan
from launch.run_data import load_run_data
from launch.source import make_source
from launch.users_code import CodeChanged, refuse_other_code
from models.bad_numbers import BadNumbers
from models.block import Learning, LocalBlock
from models.compilation import SECONDS_A_UNIT
from models.data import ImageData
from models.device import make_cuda_deterministic
from models.evaluation.unit_accuracy import evaluate
from models.network import write_input
from models.plugins import UsersError, users_code
from models.recut import OldBlock, carry
from models.ties import RULES
from models.unsaveable import Unsaveable
from models.wire import EXACT
from runtime.block import Specs
from runtime.core.plan import WorkerPlan
from runtime.faults.plan import Fault, parse
from runtime.program import Tell, unheard
from runtime.records.schema import UnitAccuracy, common_fields
from runtime.state.checkpoint import Checkpoint
from runtime.state.saving import split_part


class LocalLearningJob:
    """A resolved run, as the runtime's processes see it (runtime.job.Job)."""

    def __init__(self, resolved: Resolved) -> None:
        self.resolved = resolved
        self._data: ImageData | None = None
        self._is_workers = False
        config = resolved.config
        self.num_workers = config.workers
        self.num_steps = config.steps
        self.batch_size = config.batch_size
        self.threads = config.threads
        self.cores = usable_cores()
        self.shares_cores = resolved.cores < resolved.workers_per_host * self.threads
        self.link: str = config.link
        self.checksum: str = config.checksum
        self.encrypts_tensors = config.encrypt_tensors
        self.report_every_s = config.report_every_s
        self.quick_end = config.quick_end
        self.trace = config.trace
        self.model_name = config.model.rpartition(":")[2]
        self.config_toml = to_toml(config)
        self.given_toml = to_toml(config.given)
        phases_s = (config.max_worker_restarts + 2) * config.phase_timeout_s
        self.patience_s = phases_s + 10 * config.hang_timeout_s
        self.retain_bytes = config.retain_mb * 1e6
        self.faults: tuple[Fault, ...] = parse(config.faults)
        self.final_errors: tuple[type[Exception], ...] = (
            BadNumbers,
            UsersError,
            CodeChanged,
            Unsaveable,
            torch.OutOfMemoryError,
        )

    def data(self, tell: Tell) -> ImageData:
        """The data set; loaded when it is first asked for."""
        if self._data is None:
            self._data = load_run_data(self.resolved.config, tell=tell)
        return self._data

    @cached_property
    def notes(self) -> list[str]:
        """What the user should know of the job before it starts."""
        return notes_on(self.resolved)

    def plan(self, block_index: int) -> WorkerPlan:
        return worker_plan(self.resolved, block_index)

    def specs(self, edge: int) -> Specs:
        return edge_specs(self.resolved, edge)

    def take_device(self, block_index: int) -> None:
        self._is_workers = True
        if self.resolved.config.device == "cuda":
            launcher = Launcher.from_environ()
            local_rank = None if launcher is None else launcher.local_rank
            see_only(visible_gpus(), block_index if local_rank is None else local_rank)

    def describe(self, block_index: int, error: Exception) -> str:
        if not isinstance(error, torch.OutOfMemoryError):
            return str(error)
        free_bytes, total_bytes = torch.cuda.mem_get_info()
        return out_of_memory(
            block_memory(self.resolved, self.resolved.partition.blocks[block_index]),
            block_index=block_index,
            room_bytes=free_bytes + torch.cuda.memory_reserved(),
            total_bytes=total_bytes,
        )

    def build_block(self, block_index: int, tell: Tell = unheard) -> LocalBlock:
        if self._is_workers:
            refuse_other_code(self.resolved.config)
        if self.resolved.config.device == "cuda":
            make_cuda_deterministic()
        if block_index == 0:
            tell(f"loading the data ({self.resolved.config.data})")
        data = self.data(tell) if block_index == 0 else None
        tell("building its block")
        return build_block(self.resolved, block_index, data, tell, copies_beside=self._is_workers)

    def unit_names(self, block_index: int) -> tuple[list[str], list[str]]:
        units, block = self.resolved.network.units, self.resolved.partition.blocks[block_index]
        return [units[i].name for i in block.home], [units[i].name for i in block.guest]

    def carry(
        self, block_index: int, checkpoint: Checkpoint, tell: Tell = unheard
    ) -> tuple[LocalBlock, list[str]]:
        """Build a block from the parts of another cut, as far as that goes."""
        units = self.resolved.network.units
        config = from_toml(checkpoint.config_toml)
        partition = Partition(num_units=len(units), cuts=config.cuts, overlaps=config.overlap)
        old = []
        for index, part in enumerate(partition.blocks):
            state, _ = split_part(safetensors.torch.load(checkpoint.read_part(index)))
            home, guest = ([units[i].name for i in group] for group in (part.home, part.guest))
            old.append(OldBlock(home=tuple(home), guest=tuple(guest), state=state))
        block = self.build_block(block_index, tell)
        state, notes = carry(
            old,
            block.state(),
            home=block.home_units,
            guest=block.guest_units,
            trains_guest=RULES[self.resolved.config.tie].trains_guest,
        )
        block.load(state)
        return block, notes

    def evaluate(self, weights: Mapping[str, Tensor], tell: Tell = unheard) -> list[UnitAccuracy]:
        network, partition = self.resolved.network, self.resolved.partition
        try:
            data = self.data(tell)
            num_train = int((data.train_labels >= 0).sum())
            units = evaluated_units(partition, num_train=num_train)
            accuracies = evaluate(network, dict(weights), data, units=units, tell=tell)
        except UsersError as error:  # a unit that fails in eval mode costs the evaluation alone
            raise ValueError(str(error)) from error
        return [UnitAccuracy(**common_fields(UnitAccuracy, accuracy)) for accuracy in accuracies]


def build_blocks(resolved: Resolved, data: ImageData) -> list[LocalBlock]:
    """Build every block, lowest first."""
    return [build_block(resolved, k, data) for k in range(resolved.partition.num_blocks)]


def build_block(
    resolved: Resolved,
    block_index: int,
    data: ImageData | None,
    tell: Tell = unheard,
    *,
    copies_beside: bool = False,
) -> LocalBlock:
    """Build a block; only the first needs the data."""
    block = _build_block(resolved, block_index, data, copies_beside=copies_beside)
    if resolved.numerics.compile:
        _compile(resolved, block_index, block, tell)
    return block


def _compile(resolved: Resolved, block_index: int, block: LocalBlock, tell: Tell) -> None:
    """Compile a block's units for what comes in at each step. Raises UsersError."""
    part = resolved.partition.blocks[block_index]
    names = [resolved.network.units[i].name for i in (*part.home, *part.guest)]
    tell(f"compiling units {' '.join(names)}", takes_s=SECONDS_A_UNIT * len(names))
    shape: tuple[int, ...] = resolved.image_shape
    dtype = "float32"
    if block_index:
        below = resolved.traces[part.home.start - 1]
        shape, dtype = below.output_shape, below.output_dtype
    blank = torch.zeros(resolved.num_samples, *shape, dtype=getattr(torch, dtype))
    with users_code(f"units {' '.join(names)}", " as they were compiled (--compile)"):
        block.compile_units(blank)


def _build_block(
    resolved: Resolved, block_index: int, data: ImageData | None, *, copies_beside: bool
) -> LocalBlock:
    config, partition = resolved.config, resolved.partition
    block = partition.blocks[block_index]
    source = None
    if block_index == 0 and data is not None:
        source = make_source(config, data, device=_device(config, 0))
    traces = resolved.traces
    return LocalBlock(
        resolved.network,
        home=block.home,
        guest=block.guest,
        lent=block.lent,
        learning=_learning(resolved, block_index),
        objective=resolved.objective,
        num_classes=resolved.num_classes,
        head=resolved.head_of(block),
        home_shape=traces[block.home[-1]].output_shape,
        source=source,
        copies_input=write_input(traces[unit] for unit in block.home),
        writes_output=write_input(traces[unit] for unit in block.guest),
        copies_beside=copies_beside,
        writers=frozenset(i for i, trace in enumerate(traces) if trace.writes_input),
        poisoned=frozenset(
            fault.step
            for fault in parse(config.faults)
            if fault.kind == "nan" and fault.block == block_index
        ),
    )


def _learning(resolved: Resolved, block_index: int) -> Learning:
    """How a block learns."""
    config, partition = resolved.config, resolved.partition
    block, is_top = partition.blocks[block_index], block_index + 1 == partition.num_blocks
    return Learning(
        tie=config.tie,
        alpha=config.alpha,
        optimizer=config.optimizer,
        lr=config.lr,
        weight_decay=config.weight_decay,
        schedule=config.schedule,
        warmup_steps=config.warmup_steps,
        num_steps=config.steps,
        earlier_lengths=config.earlier_lengths,
        lr_scale=config.lr_scale_of(block_index),
        guest_lr_scale=config.lr_scale_of(min(block_index + 1, partition.num_blocks - 1)),
        grad_clip=config.grad_clip,
        numerics=resolved.numerics,
        wire_below=resolved.wire(block_index - 1, block.home.start - 1) if block_index else EXACT,
        wire_above=EXACT if is_top else resolved.wire(block_index, block.home[-1]),
        max_bad_steps=config.max_bad_steps,
        seed=config.seed,
        device=_device(config, block_index),
    )


def _device(config: ResolvedConfig, block_index: int) -> str:
    """A worker's own GPU, the only one that it sees; of blocks in one process, each in turn."""
    if config.device == "cpu":
        return "cpu"
    return f"cuda:{block_index % torch.cuda.device_count()}"
