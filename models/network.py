"""Networks as lists of units, so that they can be cut between any two.

Owns what a unit and a network are, how units are built, and how they join into the plain
module. Knows nothing of blocks, losses or where a network is cut.
"""

import copy
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from models import randomness

NUM_BLANKS = 2  # images that are sent through a network to see what it does


@dataclass(frozen=True, kw_only=True)
class Unit:
    """The smallest piece of a network that lives in one block.

    `prefix` is what precedes the unit's entries in the plain network's state dict ("" or
    "layer1.0."); `build` makes the module, drawing its weights from torch's global generator.
    """

    name: str
    prefix: str
    build: Callable[[], nn.Module]


@dataclass(frozen=True, kw_only=True)
class Network:
    """A network as the list of its units, lowest first.

    `stages` holds the first unit of each of the architecture's own stages, where it has any:
    LoCo cuts there (arXiv 2008.01342). `num_features` is the last unit's number of channels,
    which a classifier needs.
    """

    name: str
    units: tuple[Unit, ...]
    stages: tuple[int, ...] = ()
    num_features: int | None = None

    def __post_init__(self) -> None:
        names = [unit.name for unit in self.units]
        if not names:
            raise ValueError(f"network {self.name!r} has no units; it needs at least one")
        if len(set(names)) != len(names):
            raise ValueError(f"network {self.name!r} names a unit twice: {names}")

    def build_unit(self, index: int, *, seed: int) -> nn.Module:
        """Build one unit with weights that depend only on (seed, unit name)."""
        unit = self.units[index]
        randomness.seed_torch(seed, "init", unit=unit.name)
        return unit.build()


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
        logits: Tensor = self.get_submodule("fc")(x.flatten(2).mean(2) if x.ndim > 2 else x)
        return logits


def build_plain(network: Network, *, seed: int, num_classes: int | None = None) -> Plain:
    """Build every unit and join them into the plain network.

    `num_classes` adds global average pool and a linear classifier `fc`. Raises ValueError where
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
    asked for later is a copy. Raises ValueError where `build` returns anything else.
    """
    randomness.seed_torch(seed, "init", unit=name)
    whole = build()
    if not isinstance(whole, nn.Sequential):
        kind = type(whole).__name__
        raise ValueError(f"model {name!r} built a {kind}; an nn.Sequential is needed, to be cut")

    units = [
        Unit(name=child_name, prefix=f"{child_name}.", build=partial(copy.deepcopy, child))
        for child_name, child in whole._modules.items()  # all of them: one may stand twice
        if child is not None
    ]
    of_units = [parameter for child in whole for parameter in set(child.parameters())]
    if len(set(of_units)) < len(of_units):
        raise ValueError(
            f"model {name!r} uses a parameter in two of its units, which can't be cut apart; give"
            " each unit its own"
        )
    return Network(name=name, units=tuple(units))


@dataclass(frozen=True, kw_only=True)
class UnitTrace:
    """What goes through one unit for one image: what it trains, and its output.

    Dtypes are torch's names, such as "float32"; a unit that trains nothing has none of its own.
    """

    num_trainable: int
    trainable_dtypes: frozenset[str]
    output_shape: tuple[int, ...]
    output_dtype: str


def trace_units(network: Network, image_shape: tuple[int, int, int]) -> list[UnitTrace]:
    """Send two blank images (C, H, W) through the network, a unit at a time.

    On the CPU, where that takes milliseconds: the meta device, which would run nothing, first
    imports torch's compiler (1.3 s of every worker's start).
    """
    traces = []
    for module, x_BCHW in run_units(network, image_shape):
        trainable = [p for p in module.parameters() if p.requires_grad]
        traces.append(
            UnitTrace(
                num_trainable=sum(p.numel() for p in trainable),
                trainable_dtypes=frozenset(_name(p.dtype) for p in trainable),
                output_shape=tuple(x_BCHW.shape[1:]),
                output_dtype=_name(x_BCHW.dtype),
            )
        )
    return traces


def run_units(
    network: Network, image_shape: tuple[int, int, int]
) -> Iterator[tuple[nn.Module, Tensor]]:
    """Send blank images through, without gradients: each unit's module and what it gave."""
    x_BCHW = torch.zeros(NUM_BLANKS, *image_shape)
    for unit in network.units:
        module = unit.build().eval()
        with torch.no_grad():
            x_BCHW = module(x_BCHW)
        yield module, x_BCHW


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
