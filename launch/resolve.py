"""What a configuration leaves open, decided for this network, this data and this machine.

Owns the defaults that depend on them, and every check that needs torch to be made; whatever a
user can get wrong is a ConfigError from here or from launch.config, before any worker starts.
What his own code raises is a models.plugins.UsersError.
Must not start anything.
"""

import dataclasses
import json
import math
import os
import sys
from typing import Any, Literal, NamedTuple, TypeVar

import torch

from launch.config import ConfigError, ResolvedConfig, RunConfig, show
from launch.config_file import from_toml, to_toml
from launch.environment import Environment
from launch.link_choice import choose_link
from launch.planning import streams
from launch.planning.costs import Costs
from launch.planning.cuts import check_memory, choose_cuts
from launch.planning.memory import choose_snapshot_every
from launch.planning.partition import Partition
from launch.planning.resolved import Resolved
from launch.planning.source_time import measured_block_0, measured_source
from launch.planning.workload import Workload, sharing_of
from launch.run_data import digest_of, load_run_data, sizes_of
from launch.source import make_source
from launch.users_code import digests_of
from models.compilation import what_lacks
from models.data import ImageData, steps_per_epoch
from models.heads import load_head
from models.loss_check import check_heads_apart, try_local_loss
from models.network import Network, check_builds, compiled_remarks
from models.objectives import load_objective
from models.optimizers import load_optimizer
from models.plugins import UsersError, is_dotted
from models.registry import load_network
from models.view_names import check_users_views, views_remarks
from runtime.faults import plan as faults
from runtime.program import Tell, unheard

Number = TypeVar("Number", int, float)

DEFAULT_WORKERS = 4
CHECKED_IMAGES = 8  # that a user's views are drawn of before the start
FACTS = (
    *("image_shape", "num_classes", "num_train", "source_s", "remarks"),
    *("workers_per_host", "cores", "gpus"),
)
"""Dumped as they are."""


def resolve(
    config: RunConfig,
    *,
    environment: Environment,
    recorded: ResolvedConfig | None = None,
    tell: Tell = unheard,
    times_block_0: bool = False,
) -> Resolved:
    """Decide what is open and check the rest; resolving the result again changes nothing.

    Loads the data and the network, the user's own modules from the current directory included.
    `recorded` is the config of a run that is resumed, from which open cuts and threads are taken.
    `tell` is told which phase of that begins. The source of the batches is timed if the units are;
    `times_block_0`: for a plan, it and what block 0 learns of it. Raises ConfigError.
    """
    let_users_modules_be_found()
    asked = config if recorded is None else _as_recorded(config, recorded, environment)
    try:
        return _resolve(asked, environment, tell, given=config, times_block_0=times_block_0)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    except MemoryError as error:
        raise ConfigError(
            f"this machine's memory is too little ({error}); give fewer or smaller images, or a"
            " smaller network"
        ) from error


def dump(resolved: Resolved) -> str:
    """Write what was decided as text, for `restore` in another process or on another host."""
    facts = {name: getattr(resolved, name) for name in FACTS}
    measured = None if resolved.measured is None else resolved.measured.as_dict()
    return json.dumps({"config": to_toml(resolved.config), "measured": measured, **facts})


def config_of(text: str) -> ResolvedConfig:
    """The config in what `dump` wrote."""
    return from_toml(json.loads(text)["config"])


def restore(text: str) -> Resolved:
    """Read back what `dump` wrote, without loading the data or looking at this machine."""
    let_users_modules_be_found()
    facts = json.loads(text)
    config, measured = from_toml(facts.pop("config")), facts.pop("measured")
    facts |= {name: tuple(facts[name]) for name in ("image_shape", "remarks")}
    network = load_network(config.model, facts["image_shape"], seed=config.seed)
    return Resolved(
        config=config,
        partition=Partition(
            num_units=len(network.units), cuts=config.cuts, overlaps=config.overlap
        ),
        network=network,
        measured=None if measured is None else Costs.from_dict(measured),
        **facts,
    )


def let_users_modules_be_found() -> None:
    """Dotted names are looked up from the current directory too, behind all that is installed: a
    folder `models` there must not take the place of ours."""
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())


def _as_recorded(
    config: RunConfig, recorded: ResolvedConfig, environment: Environment
) -> RunConfig:
    """Leave what is open to the run that is resumed, so that it resumes with the same bits on a
    machine of other cores; its cuts only if all that they were chosen by is asked for again."""
    workers = config.workers or environment.world_size or recorded.workers
    if workers != recorded.workers:
        return config
    asked = dataclasses.replace(config, threads=config.threads or recorded.threads)
    names = ("model", "overlap", "cuts", "max_memory_mb")
    if any(getattr(config, name) != getattr(recorded.given, name) for name in names):
        return asked
    return dataclasses.replace(asked, cuts=recorded.cuts)


def _resolve(
    config: RunConfig,
    environment: Environment,
    tell: Tell,
    *,
    given: RunConfig,
    times_block_0: bool,
) -> Resolved:
    data, workload = _read(config, environment, tell)
    network, workers = workload.network, workload.workers
    num_train = len(data.train_labels)
    epochs, steps = _length(config, num_train)
    threads = config.threads or _share_of_cores(environment, workers)
    device = _device(config, environment)
    link = choose_link(config, environment, device=device, workers=workers)
    tell("choosing the cuts")
    cut = _cut(workload, data, device, threads, times_block_0=times_block_0)
    partition, per_host = cut.partition, environment.local_world_size or workers
    decided = {
        "cuts": partition.cuts,
        "overlap": partition.overlaps,
        "epochs": epochs,
        "steps": steps,
        "threads": threads,
        "device": device,
        "link": link,
        "snapshot_every": config.snapshot_every or 1,
        "retain_mb": config.retain_mb
        or streams.choose_retain_mb(
            workload, partition, workers_per_host=per_host, memory_bytes=environment.memory_bytes
        ),
        "checkpoint_every": config.checkpoint_every
        or steps_per_epoch(num_train, config.batch_size),
        "processor": environment.processor,
        "torch": torch.__version__,
        "code": digests_of(config),
        "data_sizes": sizes_of(data),
        "data_digest": digest_of(data),
    }
    faults.check(faults.parse(config.faults), num_workers=workers, num_steps=steps)
    resolved_config = ResolvedConfig(**({"given": given} | vars(workload.config) | decided))
    resolved = Resolved(
        config=resolved_config,
        partition=partition,
        network=network,
        image_shape=data.image_shape,
        num_classes=data.num_classes,
        num_train=num_train,
        measured=cut.measured,
        source_s=cut.source_s,
        learning_s=cut.learning_s,
        workers_per_host=per_host,
        cores=environment.cores,
        gpus=environment.gpus,
        remarks=_remarks(config, resolved_config, data, environment, workload),
    )
    streams.check_retention(resolved)
    _try_local_losses(workload, partition)
    return resolved if config.snapshot_every is not None else _with_snapshots(resolved)


def _read(config: RunConfig, environment: Environment, tell: Tell) -> tuple[ImageData, Workload]:
    """Load the data and the network, and look at both."""
    if config.compile and (lacks := what_lacks()):
        raise ConfigError(f"compile needs {lacks}; install or name one, or leave --compile out")
    tell(f"loading the data ({config.data})")
    data = load_run_data(config, verifies=True, tell=tell)
    tell(f"building the network ({config.model})")
    network = load_network(config.model, data.image_shape, seed=config.seed)
    if is_dotted(config.model):
        check_builds(network)
    _check_names(config, data)
    return data, _workload(config, environment, network, data)


class _Cut(NamedTuple):
    """The partition, and what was measured: the costs that it was chosen by, the source, and what
    block 0 learns."""

    partition: Partition
    measured: Costs | None
    source_s: float | None
    learning_s: float | None


def _cut(
    workload: Workload, data: ImageData, device: str, threads: int, *, times_block_0: bool
) -> _Cut:
    config, source_s, learning_s = workload.config, None, None
    try:
        if config.cuts == "profiled":
            source = make_source(config, data, device=device)
            source_s = measured_source(source, threads=threads)
        cuts, measured = choose_cuts(
            workload, device=device, threads=threads, source_s=source_s or 0.0
        )
        partition = Partition.shared(
            num_units=len(workload.network.units), cuts=cuts, sharing=workload.sharing
        )
        if times_block_0 and measured is None:
            source_s, learning_s = measured_block_0(
                workload,
                partition.blocks[0],
                lambda config: make_source(config, data, device=device),
                device=device,
                threads=threads,
            )
    except torch.OutOfMemoryError as error:
        raise ConfigError(
            f"the GPU has too little memory to time views, or each unit alone, on"
            f" {workload.num_samples} samples ({error}); free it, give a smaller --batch-size, or"
            " --cuts auto"
        ) from error
    _check_shared_dtypes(workload, partition)
    _check_wire_ties(workload, partition)
    _check_trained(workload, partition)
    check_memory(workload, partition)
    return _Cut(partition, measured, source_s, learning_s)


def _with_snapshots(resolved: Resolved) -> Resolved:
    every = choose_snapshot_every(resolved)
    config = dataclasses.replace(resolved.config, snapshot_every=every)
    return dataclasses.replace(resolved, config=config)


def _share_of_cores(environment: Environment, workers: int) -> int:
    return max(1, environment.cores // (environment.local_world_size or workers))


def _workload(
    config: RunConfig, environment: Environment, network: Network, data: ImageData
) -> Workload:
    """What the choice of cuts stands on."""
    workers = _num_workers(config, environment, network)
    config = dataclasses.replace(
        config,
        workers=workers,
        decoder_depth=_per_block(config, "decoder-depth", config.decoder_depth, workers),
        lr_scale=_per_block(config, "lr-scale", config.lr_scale, workers),
        **_wire(config, num_edges=workers - 1),
        lag=None if config.free_ties else config.longest_lag,
        max_staleness=config.longest_lag if config.free_ties else None,
        window=config.window or max(2, config.longest_lag + 1),
    )
    workload = Workload(
        config=config,
        network=network,
        image_shape=data.image_shape,
        num_classes=data.num_classes,
    )
    try:
        _ = workload.traces  # runs the units once
    except UsersError as error:
        for remark in data.remarks:  # what is odd about the images may well be why
            error.add_note(f"note: {remark}")
        raise
    return workload


def _check_names(config: RunConfig, data: ImageData) -> None:
    """Make views, objective and an optimizer once, for what they say about names and figures."""
    check_users_views(data.views, config.views, _checked_shape(config, data))
    _check_objective(config, data)
    weight = torch.nn.Parameter(torch.zeros(1, 1))
    load_optimizer(config.optimizer, [weight], lr=config.lr, weight_decay=config.weight_decay)


def _checked_shape(config: RunConfig, data: ImageData) -> tuple[int, int, int, int]:
    """Of the batch that a user's views are drawn of before the start."""
    return (min(config.batch_size, CHECKED_IMAGES), *data.image_shape)


def _check_objective(config: RunConfig, data: ImageData) -> None:
    num_classes = data.num_classes
    objective = load_objective(
        config.objective, temperature=config.temperature, num_classes=num_classes
    )
    if objective.uses_labels and not num_classes:
        raise ConfigError(
            f"objective {config.objective} uses labels, and data {config.data!r} have none; give"
            " data with labels, or another --objective, such as nt-xent"
        )
    if config.head_features is not None and objective.head_features is not None:
        raise ConfigError(
            f"head-features {config.head_features} is not allowed with objective"
            f" {config.objective}, which needs {objective.head_features}; leave it out"
        )


def _length(config: RunConfig, num_train: int) -> tuple[int, int]:
    """Return (epochs, steps); steps, if given, decide."""
    per_epoch = steps_per_epoch(num_train, config.batch_size)
    if config.steps is None:
        return config.epochs, config.epochs * per_epoch
    return math.ceil(config.steps / per_epoch), config.steps


def _num_workers(config: RunConfig, environment: Environment, network: Network) -> int:
    world_size = environment.world_size
    if config.method == "e2e":
        if world_size not in (None, 1):
            raise ConfigError(
                f"method e2e trains in one worker, not in the launcher's {world_size} ranks; "
                "start one rank, or launch/sequential.py"
            )
        return 1
    if config.workers is not None and world_size is not None and config.workers > world_size:
        raise ConfigError(
            f"workers {config.workers} are more than the launcher's {world_size} ranks; leave "
            f"--workers out, give at most {world_size}, or start torchrun with "
            f"--nproc_per_node={config.workers}"
        )
    if config.workers is not None:
        return config.workers
    if world_size is not None:
        return world_size
    if isinstance(config.cuts, tuple):
        return len(config.cuts)
    if isinstance(config.overlap, tuple):
        return len(config.overlap) + 1
    num_units = len(network.units)
    most = sharing_of(config, network).most_blocks(num_units)
    if most == 1 and num_units > 1:
        raise ConfigError(
            f"overlap {show(config.overlap)} leaves no place for a second worker in a network of"
            f" {num_units} units; give at most {num_units - 1}, or --workers 1"
        )
    return min(DEFAULT_WORKERS, most)


def _check_shared_dtypes(workload: Workload, partition: Partition) -> None:
    """A tie is one flat vector, so what a guest shares has one dtype."""
    config, network, traces = workload.config, workload.network, workload.traces
    for block in partition.blocks:
        dtypes = {dtype for unit in block.guest for dtype in traces[unit].trainable_dtypes}
        if len(dtypes) > 1 and config.tie != "none":
            names = " ".join(network.units[unit].name for unit in block.guest)
            raise ConfigError(
                f"tie {config.tie} shares units {names} of several dtypes ({', '.join(dtypes)});"
                " give them one, or use --tie none"
            )


def _check_trained(workload: Workload, partition: Partition) -> None:
    """A block without a trained parameter has nothing that its loss could change."""
    for block in partition.blocks:
        if not streams.trained_bytes(workload, block):
            names = " ".join(workload.network.units[unit].name for unit in block.home)
            raise ConfigError(
                f"block {block.index} (units {names}) has nothing to optimise, in its head"
                " neither; give it a unit or a head with parameters that require a gradient"
            )


def _try_local_losses(workload: Workload, partition: Partition) -> None:
    """Run each block's head and objective once, if one of them is the user's."""
    config, traces = workload.config, workload.traces
    if not (is_dotted(config.head) or is_dotted(config.objective)):
        return
    specs = [workload.head_of(block) for block in partition.blocks]
    for block, spec in zip(partition.blocks, specs, strict=True):
        below = block.home.start - 1
        try_local_loss(
            config.objective,
            workload.objective,
            spec,
            load_head(spec),
            workload.numerics,
            batch_size=config.batch_size,
            num_classes=workload.num_classes,
            input_shape=traces[below].output_shape if block.index else workload.image_shape,
            home_shape=traces[block.home[-1]].output_shape,
        )
    if is_dotted(config.head):
        check_heads_apart(specs)


def _remarks(
    config: RunConfig,
    now: ResolvedConfig,
    data: ImageData,
    environment: Environment,
    workload: Workload,
) -> tuple[str, ...]:
    """What is odd about the data, the machines and the network, and about a run that is
    repeated."""
    compiled = [] if config.compile else compiled_remarks(workload.network, workload.traces)
    views = views_remarks(data.views, config.views, _checked_shape(config, data))
    of_ours = (*data.remarks, *views, *environment.remarks, *compiled)
    return (*of_ours, *_repeat_remarks(config, now))


def _repeat_remarks(config: RunConfig, now: ResolvedConfig) -> list[str]:
    """What to say if a config.toml is to repeat a run of another machine, or of other data."""
    remarks: list[str] = []
    if not isinstance(config, ResolvedConfig):
        return remarks
    if config.processor not in ("", now.processor):
        remarks.append(
            f"the run of this config.toml was on another processor ({config.processor}; this is"
            f" {now.processor}): the last bits may differ"
        )
    if config.torch not in ("", now.torch):
        remarks.append(
            f"the run of this config.toml was with torch {config.torch} (this is {now.torch}): the"
            " last bits may differ"
        )
    if config.torch and config.code != now.code:  # an older version recorded neither
        remarks.append(
            f"the run of this config.toml had other code ({config.code or 'none'}; here"
            f" {now.code or 'none'}): this one"
            " learns something else"
        )
    if config.data_digest not in ("", now.data_digest):
        remarks.append(
            f"the run of this config.toml found other data ({config.data_sizes}, digest"
            f" {config.data_digest}; these are {now.data_sizes}, digest {now.data_digest}): this"
            " one learns something else"
        )
    return remarks


def _per_block(
    config: RunConfig, key: str, numbers: tuple[Number, ...], num_blocks: int
) -> tuple[Number, ...]:
    """One number, or one a block if they differ."""
    if config.method == "e2e":
        return numbers[-1:]  # the one block is the top one
    if len(numbers) not in (1, num_blocks):
        raise ConfigError(
            f"{key} {show(numbers)} has {len(numbers)} numbers for {num_blocks} blocks; "
            f"give one for all, or {num_blocks}"
        )
    return numbers if len(set(numbers)) > 1 else numbers[:1]


def _wire(config: RunConfig, num_edges: int) -> dict[str, Any]:
    """What crosses edges in which precision: one for all, or one an edge if they differ."""
    if config.method == "e2e":  # it has no edge
        return {"wire_precision": ("exact",), "wire_ties": False}
    given = config.wire_precision
    if len(given) not in (1, num_edges):
        raise ConfigError(
            f"wire-precision {show(given)} has {len(given)} entries for {num_edges} edges; give one"
            " for all, or one per edge"
        )
    return {"wire_precision": given if len(set(given)) > 1 else given[:1]}


def _check_wire_ties(workload: Workload, partition: Partition) -> None:
    """Raise ConfigError if ties are to be rounded, and edges that round have none."""
    config, overlaps = workload.config, partition.overlaps
    if config.wire_ties and overlaps:
        rounds = [config.wire_precision_of(edge) != "exact" for edge in range(len(overlaps))]
        if not any(num for num, rounded in zip(overlaps, rounds, strict=True) if rounded):
            raise ConfigError(
                f"wire-ties rounds nothing: no edge of wire-precision {show(config.wire_precision)}"
                f" but exact has a tie (overlap {show(overlaps)}); give that edge an --overlap, or"
                " leave --wire-ties out"
            )


def _device(config: RunConfig, environment: Environment) -> Literal["cpu", "cuda"]:
    if config.device == "auto":
        return "cuda" if environment.gpus else "cpu"
    if config.device == "cuda" and not environment.gpus:
        raise ConfigError("device cuda is asked for, but no GPU is seen; use --device cpu or auto")
    return config.device
