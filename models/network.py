"""Networks as lists of units, so that they can be cut between any two.

Owns what a unit and a network are, how units are built, and how they join into the plain
module. Knows nothing of blocks, losses or where a network is cut.
"""

import copy
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from models import randomness
from models.numerics import FP32, Numerics
from models.plugins import users_code
from models.pooling import pool
from models.unit_module import (
    check_as_trained,
    check_memory_apart,
    check_module,
    check_output,
    forms_of,
    memory_of,
    own_tensors,
    uncompiled,
)

NUM_BLANKS = 2  # images that are sent through a network to see what it does


@dataclass(frozen=True, kw_only=True)
class Unit:
    """The smallest piece of a network that lives in one block.

    `prefix` is what precedes the unit's entries in the plain network's state dict ("" or
    "layer1.0."); `build` makes the module, drawing its weights from torch's global generator.
    `was_compiled`: torch.compile has been taken off what it makes.
    """

    name: str
    prefix: str
    build: Callable[[], nn.Module]
    was_compiled: bool = False


@dataclass(frozen=True, kw_only=True)
class Network:
    """A network as the list of its units, lowest first.

    `stages` holds the first unit of each of the architecture's own stages, if it has any, the stem
    being part of the first; `cuts` holds its own cuts, the first unit of each home, for some
    numbers of blocks. LoCo cuts at stages and shares whole ones (arXiv 2008.01342).
    `num_features` is the last unit's number of channels, which a classifier needs.
    """

    name: str
    units: tuple[Unit, ...]
    stages: tuple[int, ...] = ()
    cuts: tuple[tuple[int, ...], ...] = ()
    num_features: int | None = None

    def __post_init__(self) -> None:
        if not self.units:
            raise ValueError(f"network {self.name!r} has no units; it needs at least one")
        if not all(isinstance(unit, Unit) for unit in self.units):
            kinds = ", ".join(type(unit).__name__ for unit in self.units)
            raise ValueError(f"network {self.name!r} has units {kinds}; give models.network.Unit")
        names = [unit.name for unit in self.units]
        if len(set(names)) != len(names):
            raise ValueError(f"network {self.name!r} names a unit twice: {names}")
        prefixes = [unit.prefix for unit in self.units]
        if len(set(prefixes)) != len(prefixes):
            raise ValueError(
                f"network {self.name!r} has units of one prefix: {prefixes}; their weights would"
                " have the same names"
            )
        self._check_firsts("stages", self.stages, self.stages or (0,))
        for cut in self.cuts if isinstance(self.cuts, tuple | list) else [self.cuts]:
            self._check_firsts("cuts", self.cuts, cut)

    def _check_firsts(self, field: str, given: object, firsts: Any) -> None:
        """Raise ValueError unless these are first units of what the network is parted into."""
        num_units = len(self.units)
        is_list = isinstance(firsts, tuple | list) and all(isinstance(i, int) for i in firsts)
        if not is_list or list(firsts) != sorted({0, *firsts} & set(range(num_units))):
            example = "(0, 2)" if field == "stages" else "((0, 2),)"
            raise ValueError(
                f"network {self.name!r} of {num_units} units has {field} {given}; give the indices"
                f" of first units, 0 and others in rising order below {num_units}, as in {example}"
            )

    def build_unit(self, index: int, *, seed: int) -> nn.Module:
        """Build one unit with weights that depend only on (seed, unit name)."""
        randomness.seed_torch(seed, "init", unit=self.units[index].name)
        return self.make_unit(index)

    def make_unit(self, index: int) -> nn.Module:
        """Build one unit with whatever weights torch's generator draws next."""
        return _build(self, index)[0]

    def label(self, index: int) -> str:
        """Name a unit in errors."""
        return _label(self.units[index].name, index, len(self.units), self.name)


def _label(unit: str, index: int, num_units: int, network: str) -> str:
    return f"unit {unit!r} ({index + 1} of {num_units}) of model {network!r}"


def _build(network: Network, index: int) -> tuple[nn.Module, bool]:
    """Build a unit as a plain module on the CPU; tell whether torch.compile had to be taken off.

    Raises ValueError for a module that no block can hold, UsersError if the build raises.
    """
    unit, who = network.units[index], network.label(index)
    with users_code(who, " as it was built"):
        built = unit.build()
    check_module(built, who)
    module, was_compiled = uncompiled(built)
    return _on_cpu(module), was_compiled or unit.was_compiled


def _on_cpu(module: nn.Module) -> nn.Module:
    on_gpu = any(tensor.is_cuda for _, tensor in own_tensors(module))
    return module.cpu() if on_gpu else module


def check_builds(network: Network) -> None:
    """Raise ValueError if units share memory, or one that is built twice is one module.

    Blocks would write one another's weights. Takes the memory of the whole network, but for units
    that are copies of an nn.Sequential's children, which are apart.
    """
    indices = [i for i, unit in enumerate(network.units) if not isinstance(unit.build, _CopyOf)]
    built = [(network.units[index].name, network.make_unit(index)) for index in indices]
    for index, (_, module) in zip(indices, built, strict=True):
        again = memory_of(network.make_unit(index))
        for address, name in memory_of(module).items():
            if address in again:
                raise ValueError(
                    f"{network.label(index)} gives the same {name!r} each time that it is built;"
                    " make a new module in `build`, since blocks hold copies of a unit"
                )
    check_memory_apart(built, network.name)


def run_unit(
    network: Network, index: int, module: nn.Module, x_BCHW: Tensor, numerics: Numerics = FP32
) -> Tensor:
    """Send a batch through a unit that was built.

    Raises ValueError for an output on which no block can end, UsersError if the unit raises.
    """
    who = network.label(index)
    num_images = len(x_BCHW)
    form = f"shape {tuple(x_BCHW.shape)}, {_name(x_BCHW.dtype)}"
    with users_code(who, f" on an input of {form}"), numerics.autocast(x_BCHW.device):
        y_BCHW: Tensor = module(x_BCHW)
    check_output(y_BCHW, who, num_images)
    return y_BCHW


class Plain(nn.Module):
    """The whole network as one module whose state dict is that of its architecture.

    Given x (B, C, H, W), returns the last unit's output or, with a classifier, logits (B,
    num_classes). Units whose prefix is empty lend their children to the top level, as
    torchvision's ResNet does with its stem.
    """

    def __init__(
        self,
        network: Network,
        modules: Iterable[nn.Module],
        classifier: nn.Linear | None = None,
    ) -> None:
        super().__init__()
        self.order = list(modules)  # a plain list: the tree below registers each module once
        for unit, module in zip(network.units, self.order, strict=True):
            if unit.prefix:
                _register(self, unit.prefix.rstrip(".").split("."), module)
            else:
                for name, child in module.named_children():
                    _register(self, [name], child)
        self.classifies = classifier is not None
        if classifier is not None:
            _register(self, ["fc"], classifier)

    def forward(self, x: Tensor) -> Tensor:
        for module in self.order:
            x = module(x)
        if not self.classifies:
            return x
        logits: Tensor = self.get_submodule("fc")(pool(x))
        return logits


def build_plain(network: Network, *, seed: int, num_classes: int | None = None) -> Plain:
    """Build every unit and join them into the plain network.

    `num_classes` adds global average pool and a linear classifier `fc`. Raises ValueError if
    the network does not say how many features that classifier gets.
    """
    modules = [network.build_unit(i, seed=seed) for i in range(len(network.units))]
    if num_classes is None:
        return Plain(network, modules)
    if network.num_features is None:
        raise ValueError(
            f"network {network.name!r} has no num_features, which a classifier needs; return a "
            "Network that gives them"
        )
    randomness.seed_torch(seed, "init", unit="fc")
    return Plain(network, modules, nn.Linear(network.num_features, num_classes))


def _register(root: nn.Module, path: list[str], module: nn.Module) -> None:
    for name in path[:-1]:
        if name not in root._modules:
            root.add_module(name, nn.Module())
        root = root.get_submodule(name)
    root.add_module(path[-1], module)


def from_sequential(name: str, build: Callable[[], object], *, seed: int) -> Network:
    """Make a network of a user's nn.Sequential: each child is a unit.

    The module is built once, as one piece, since its children cannot be built apart; a unit
    asked for later is a copy. Raises ValueError if `build` returns anything else, or its children
    can't be cut apart.
    """
    randomness.seed_torch(seed, "init", unit=name.rpartition(":")[2])
    whole, was_compiled = _whole(name, build())
    children = [(unit, child) for unit, child in whole._modules.items() if child is not None]
    units = []
    for index, (unit, child) in enumerate(children):  # all of them: one may stand twice
        who = _label(unit, index, len(children), name)
        check_module(child, who)
        build_copy = _CopyOf(child)
        units.append(
            Unit(name=unit, prefix=f"{unit}.", build=build_copy, was_compiled=was_compiled)
        )
    check_memory_apart(children, name)
    return Network(name=name, units=tuple(units))


def _whole(name: str, built: object) -> tuple[nn.Sequential, bool]:
    """The plain nn.Sequential, and whether torch.compile had to be taken off."""
    if isinstance(built, type):
        kind = built.__name__
        raise ValueError(f"model {name!r} gave the class {kind} itself; return {kind}(...)")
    kind, was_compiled = type(built).__name__, False
    if isinstance(built, nn.Module):
        built, was_compiled = uncompiled(built)
    if not isinstance(built, nn.Sequential):
        raise ValueError(f"model {name!r} built a {kind}; an nn.Sequential is needed, to be cut")
    if type(built).forward is not nn.Sequential.forward:
        raise ValueError(
            f"model {name!r} built a {kind} with a forward of its own, which is lost if it is"
            " cut; move it into the units"
        )
    if not len(built):
        raise ValueError(f"model {name!r} built an empty nn.Sequential; each child is a unit")
    return built, was_compiled


@dataclass(frozen=True, eq=False)
class _CopyOf:
    """Builds a unit by copying the one that was built with the whole."""

    child: nn.Module

    def __call__(self) -> nn.Module:
        try:
            return copy.deepcopy(self.child)
        except Exception as error:
            first_line, *_ = str(error).splitlines() or [""]
            raise ValueError(
                f"it can't be copied, which a guest is ({type(error).__name__}: {first_line});"
                " keep only parameters, buffers and modules in it:"
                " torch.nn.utils.parametrizations has weight_norm and spectral_norm that can be"
                " copied"
            ) from error


@dataclass(frozen=True, kw_only=True)
class UnitTrace:
    """What goes through one unit for one image: what it trains, and its output.

    Dtypes are torch's names, such as "float32"; a unit that trains nothing has none of its own.
    `writes_input`: it works in place on its input; `passes_input`: its output is its input's
    memory. `was_compiled`: see Unit.
    """

    num_trainable: int
    trainable_dtypes: frozenset[str]
    output_shape: tuple[int, ...]
    output_dtype: str
    writes_input: bool = False
    passes_input: bool = False
    was_compiled: bool = False


def trace_units(
    network: Network, image_shape: tuple[int, int, int], numerics: Numerics = FP32
) -> list[UnitTrace]:
    """Send two blank images (C, H, W) through the network, a unit at a time.

    Raises ValueError for a unit that no block can hold or end on, UsersError for one that raises.
    On the CPU, on which that takes milliseconds: the meta device, which would run nothing, first
    imports torch's compiler (1.3 s of every worker's start).
    """
    traces = []
    x_BCHW = numerics.laid_out(torch.zeros(NUM_BLANKS, *image_shape))
    for index in range(len(network.units)):
        module, was_compiled = _build(network, index)
        forms = forms_of(own_tensors(module))
        given_BCHW, version = x_BCHW, x_BCHW._version
        with torch.no_grad():  # but in training mode
            x_BCHW = run_unit(network, index, module, x_BCHW, numerics)
        check_as_trained(module, network.label(index), forms, given_BCHW)
        trainable = [p for p in module.parameters() if p.requires_grad]
        traces.append(
            UnitTrace(
                num_trainable=sum(p.numel() for p in trainable),
                trainable_dtypes=frozenset(_name(p.dtype) for p in trainable),
                output_shape=tuple(x_BCHW.shape[1:]),
                output_dtype=_name(x_BCHW.dtype),
                writes_input=given_BCHW._version != version,
                passes_input=_memory(given_BCHW) == _memory(x_BCHW),
                was_compiled=was_compiled,
            )
        )
    return traces


def compiled_remarks(network: Network, traces: Sequence[UnitTrace]) -> list[str]:
    """What to say of units from which torch.compile was taken off: one sentence, or none."""
    pairs = zip(network.units, traces, strict=True)
    names = ", ".join(unit.name for unit, trace in pairs if trace.was_compiled)
    if not names:
        return []
    return [
        f"model {network.name!r} is compiled (units {names}) and runs here without torch.compile,"
        " since a block's bits must not depend on where the network is cut; --compile compiles each"
        " unit by itself"
    ]


def write_input(units: Iterable[UnitTrace]) -> bool:
    """Whether units that follow one another work in place on what the first of them is given."""
    for unit in units:
        if unit.writes_input:
            return True
        if not unit.passes_input:
            return False
    return False


def _memory(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
