"""An evaluation of a saved run: what can be asked for, and the records that it comes to.

Owns the flags of launch/evaluate.py. Needs nothing of the run but its directory.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from launch.config import ConfigError, ResolvedConfig
from launch.evaluated_units import Units, evaluated_units
from launch.run_data import load_run_data, same_data
from launch.saved_run import SavedRun
from models.data import ImageData
from models.evaluation.knn import num_neighbours
from models.evaluation.protocol import EvaluationProtocol
from models.evaluation.unit_accuracy import evaluate
from models.paths import is_folder
from models.plugins import UsersError, is_dotted
from runtime import digest
from runtime.program import Tell
from runtime.records.schema import Evaluation
from runtime.state.storage import write_durably


@dataclass(frozen=True, kw_only=True)
class EvaluationFlags:
    """What the user gave, beside the run."""

    data: str | None = None
    """Data set by name (digits, synthetic:CxHxW), LAYOUT:PATH or a function of your own; without it
    the run's. Its images must be such as the network takes; its classes may be others."""
    image_size: int | None = None
    """Height and width to which the images of another folder are scaled and cut."""
    units: Units | None = None
    """Measure where each block's home ends, after every unit, or after the last one; without it
    every unit if training images x units are at most 100,000, else blocks."""
    protocol: Annotated[EvaluationProtocol, Parameter(name="*")] = field(
        default_factory=EvaluationProtocol
    )
    json: Path | None = None
    """File that receives the records."""

    def __post_init__(self) -> None:
        if self.json is not None and not is_folder(self.json.parent):
            raise ConfigError(f"json {str(self.json)!r}: no such directory; make it first")
        if self.json is not None and is_folder(self.json):
            raise ConfigError(f"json {str(self.json)!r} is a directory; give a file")


def measure(
    run: Path, flags: EvaluationFlags, tell: Tell, note: Callable[[str], None]
) -> list[Evaluation]:
    """Evaluate a run's weights; one record a unit, lowest first. `note` is told what is odd about
    the data, and if fewer vote than were asked for. Raises ValueError for what a user got wrong,
    UsersError if his code raises."""
    saved = SavedRun.read(run)
    data, config = _data(saved, flags, tell)
    for remark in data.remarks:
        note(remark)
    network = saved.network(data.image_shape)
    partition = saved.partition(network)
    num_train = int((data.train_labels >= 0).sum())
    try:
        accuracies = evaluate(
            network,
            saved.weights,
            data,
            units=evaluated_units(partition, num_train=num_train, choice=flags.units),
            protocol=flags.protocol,
            seed=saved.config.seed,
            tell=tell,
        )
    except (ValueError, UsersError) as error:
        shape = "x".join(map(str, data.image_shape))
        what = f"data {flags.data or saved.config.data!r}, with images of {shape}"
        if isinstance(error, UsersError) and is_dotted(saved.config.model):
            error.add_note(f"note: on {what}")
            raise  # with the traceback that he needs
        raise ConfigError(f"{what}: {error}") from error
    protocol = asdict(_that_was_used(flags.protocol, num_train, note))
    ends = {network.units[home[-1]].name: block for block, home in enumerate(partition.homes)}
    weights_sha256 = digest.of_tensors(saved.weights)
    return [
        Evaluation(
            run=str(run),
            weights_sha256=weights_sha256,
            data=flags.data or saved.config.data,
            split=config.split,
            validation=config.validation,
            num_train=num_train,
            num_test=int((data.test_labels >= 0).sum()),
            num_classes=len(data.train_labels[data.train_labels >= 0].unique()),
            seed=saved.config.seed,
            protocol=protocol,
            unit=accuracy.name,
            block=ends.get(accuracy.name),
            num_features=accuracy.num_features,
            linear_top1=accuracy.linear_top1,
            knn_top1=accuracy.knn_top1,
        )
        for accuracy in accuracies
    ]


def _that_was_used(
    asked: EvaluationProtocol, num_train: int, note: Callable[[str], None]
) -> EvaluationProtocol:
    """What was asked for, with no more neighbours than there are; `note` is told if they are
    fewer."""
    k = num_neighbours(asked.k, num_train)
    if k < asked.k:
        note(f"k {asked.k}, but only {num_train} training images have a label; all of them vote")
    return replace(asked, k=k)


def write(records: Sequence[Evaluation], path: Path) -> None:
    """Write the records as one JSON array. What is no file, as a pipe or /dev/stdout, is written
    to, not replaced. Raises OSError."""
    content = (json.dumps([asdict(record) for record in records], indent=1) + "\n").encode()
    if path.exists() and not path.is_file():
        path.write_bytes(content)
    else:
        write_durably(path.resolve(), content)


def _data(saved: SavedRun, flags: EvaluationFlags, tell: Tell) -> tuple[ImageData, ResolvedConfig]:
    """The data that are asked for, and a config that says which."""
    config = replace(saved.config, views="auto")  # none are drawn
    if flags.data is not None and not same_data(flags.data, config.data):
        config = replace(
            config,
            data=flags.data,
            image_size=flags.image_size,
            split=0,
            validation=0.0,
            train_images=None,
        )
    elif flags.image_size is not None:
        raise ConfigError(
            f"image-size {flags.image_size} is for --data folder:PATH; the run's own images have"
            " the size that it trained on"
        )
    return load_run_data(config, verifies=True, tell=tell), config
