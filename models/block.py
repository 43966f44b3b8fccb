"""One block's step: home forward, guest and head, loss, backward, optimizer, tie.

Owns everything a worker holds. Knows nothing of processes, links or when its methods are called;
the sequential reference and the workers share this file and nothing else. The caller runs, for
step 0, 1, ...: `forward`, `update`, `apply`.

Shapes: B batch, C channels, H height, W width, N = 2B (both views stacked), D features.
"""

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils import parameters_to_vector

from models import randomness
from models.heads import build_head, pool
from models.network import Network
from models.objectives import Objective
from models.optimizers import learning_rate, load_optimizer, step_optimizer
from models.probe import LinearProbe

Tie = Literal["gradient", "elastic", "none"]
Payload = tuple[Tensor, ...]
Feed = Callable[[int], Payload]


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a block learns. `alpha` is the elastic tie's pull; `decoder_depth` its own head's."""

    tie: Tie
    alpha: float
    optimizer: str
    lr: float
    weight_decay: float
    schedule: Literal["constant", "cosine"]
    warmup_steps: int
    num_steps: int
    decoder_depth: int
    seed: int
    device: str = "cpu"


class Ties(NamedTuple):
    """What a block's update offers its neighbours: flat vectors over the shared parameters."""

    up: Payload | None  # over the guest's, for the block above
    down: Payload | None  # over the home's units that are the guest of the block below


class LocalBlock:
    """Home, guest and head of one block, with its objective, optimizer and probe.

    `home` and `guest` are ranges of units; `lent` is the range of home units that the block
    below replicates. `feed` gives the lowest block its batches: views (2B, C, H, W) and labels
    (B,); other blocks get theirs as activations.
    """

    def __init__(
        self,
        network: Network,
        *,
        home: range,
        guest: range,
        lent: range,
        recipe: Recipe,
        objective: Objective,
        num_classes: int,
        output_shape: tuple[int, ...],
        home_shape: tuple[int, ...],
        feed: Feed | None = None,
    ) -> None:
        self.recipe = recipe
        self.device = torch.device(recipe.device)
        self._feed = feed
        self._objective = objective
        self._is_top = guest.stop == len(network.units) and not guest
        self._units = {i: network.units[i] for i in (*home, *guest)}
        build = {i: network.build_unit(i, seed=recipe.seed) for i in self._units}
        self._home = nn.ModuleDict({str(i): build[i] for i in home}).to(self.device)
        self._guest = nn.ModuleDict({str(i): build[i] for i in guest}).to(self.device)
        self._top_name = network.units[(*home, *guest)[-1]].name
        self._head = self._build_head(output_shape)
        self.probe = LinearProbe(home_shape[0], num_classes)
        self._lent = _parameters(self._home[str(i)] for i in lent)
        self._borrowed = _parameters(self._guest.values())
        self._trained = _parameters([self._home, self._guest, self._head])
        self._optimizer = load_optimizer(
            recipe.optimizer, self._trained, lr=recipe.lr, weight_decay=recipe.weight_decay
        )
        self._output_NCHW: Tensor | None = None
        self._labels_B: Tensor | None = None
        self.loss = math.nan

    def _build_head(self, shape: tuple[int, ...]) -> nn.Module:
        randomness.seed_torch(self.recipe.seed, "head", unit=self._top_name)
        width = self._objective.head_features
        depth = self.recipe.decoder_depth
        if width is None:
            head = build_head(in_shape=shape, depth=depth)
        else:
            head = build_head(in_shape=shape, depth=depth, out_features=width)
        return head.to(self.device)

    @property
    def probe_top1(self) -> float:
        """The online probe's running top-1 on training batches; NaN before any."""
        top1 = self.probe.top1
        return math.nan if top1 is None else top1

    # The step ---------------------------------------------------------------------------------

    def forward(self, step: int, incoming: Payload | None) -> Payload | None:
        """Run the home on `incoming` (N, C, H, W), (B,); return what the block above receives.

        The activation is detached, contiguous and a copy, since the guest may work in place;
        None from the top block, which has no one above.
        """
        if incoming is None:
            assert self._feed is not None, "a block without a feed needs an activation"
            incoming = self._feed(step)
        x_NCHW, self._labels_B = (tensor.to(self.device) for tensor in incoming)
        self._output_NCHW = self._run(self._home, x_NCHW, step)
        if self._is_top:
            return None
        activation = (
            self._output_NCHW.detach().to("cpu").clone(memory_format=torch.contiguous_format)
        )
        return activation, self._labels_B.to("cpu")

    def update(self, step: int) -> Ties:
        """Guest, head, loss, backward; own optimizer step unless the tie is on gradients."""
        assert self._output_NCHW is not None, "update follows forward"
        assert self._labels_B is not None
        output_NCHW, self._output_NCHW = self._output_NCHW, None
        # Before the guest, which may work in place on what it is given.
        features_ND = pool(output_NCHW.detach()).clone()
        top_NCHW = self._run(self._guest, output_NCHW, step)
        randomness.seed_torch(self.recipe.seed, "head-dropout", unit=self._top_name, step=step)
        loss = self._objective(self._head(top_NCHW), self._labels_of_loss())
        for parameter in self._trained:
            parameter.grad = None
        loss.backward()
        self.loss = float(loss.detach())
        self.probe.observe(features_ND, self._labels_B.repeat(2))
        if self.recipe.tie == "gradient":
            return Ties(up=_flat_gradients(self._borrowed), down=_flat_gradients(self._lent))
        self._step_optimizer(step)
        if self.recipe.tie == "elastic":
            return Ties(up=_flat_weights(self._borrowed), down=_flat_weights(self._lent))
        return Ties(up=None, down=None)

    def apply(self, step: int, from_below: Payload | None, from_above: Payload | None) -> None:
        """Apply the partners' ties; None: that term is absent.

        gradient: add the partner's gradients, then step. elastic: pull the weights by alpha
        (arXiv 1412.6651, eq. 6) towards the partner's. none: nothing.
        """
        pairs = [(self._lent, from_below), (self._borrowed, from_above)]
        for parameters, payload in pairs:
            if payload is None:
                continue
            (flat,) = (tensor.to(self.device) for tensor in payload)
            if self.recipe.tie == "gradient":
                _add_gradients(parameters, flat)
            else:
                _pull(parameters, flat, self.recipe.alpha)
        if self.recipe.tie == "gradient":
            self._step_optimizer(step)

    def _labels_of_loss(self) -> Tensor:
        """The labels, for an objective that uses them by name; for all others, unlabelled."""
        assert self._labels_B is not None
        uses_labels = self._objective.uses_labels
        return self._labels_B if uses_labels else torch.full_like(self._labels_B, -1)

    def _run(self, units: nn.ModuleDict, x_NCHW: Tensor, step: int) -> Tensor:
        for index, module in units.items():
            name = self._units[int(index)].name
            randomness.seed_torch(self.recipe.seed, "dropout", unit=name, step=step)
            x_NCHW = module(x_NCHW)
        return x_NCHW

    def _step_optimizer(self, step: int) -> None:
        recipe = self.recipe
        lr = learning_rate(
            step,
            recipe.num_steps,
            base=recipe.lr,
            warmup_steps=recipe.warmup_steps,
            schedule=recipe.schedule,
        )
        for group in self._optimizer.param_groups:
            group["lr"] = lr
        step_optimizer(self._optimizer)

    # What it holds ----------------------------------------------------------------------------

    def home_state(self) -> dict[str, Tensor]:
        """The home's weights and buffers, by their names in the plain network."""
        return dict(self._named_states("", self._home))

    def state(self) -> dict[str, Tensor]:
        """Everything the block holds, by name: homes, guests, head, optimizer, probe."""
        state = dict(self._named_states("home/", self._home))
        state |= self._named_states("guest/", self._guest)
        state |= {f"head/{name}": value for name, value in self._head.state_dict().items()}
        state |= self._optimizer_state()
        return state | {f"probe/{name}": value for name, value in self.probe.state().items()}

    def _named_states(self, root: str, units: nn.ModuleDict) -> Iterator[tuple[str, Tensor]]:
        for index, module in units.items():
            prefix = root + self._units[int(index)].prefix
            for name, value in module.state_dict().items():
                yield prefix + name, value

    def _optimizer_state(self) -> dict[str, Tensor]:
        names = {}
        for part, module in (("home", self._home), ("guest", self._guest), ("head", self._head)):
            names |= {p: f"{part}/{name}" for name, p in module.named_parameters()}
        return {
            f"optimizer/{names[parameter]}/{key}": torch.as_tensor(value)
            for parameter, state in self._optimizer.state.items()
            for key, value in state.items()
        }


def _parameters(modules: Iterable[nn.Module]) -> list[nn.Parameter]:
    return [p for module in modules for p in module.parameters() if p.requires_grad]


def _flat_weights(parameters: list[nn.Parameter]) -> Payload | None:
    if not parameters:
        return None
    return (parameters_to_vector(parameters).detach().to("cpu"),)


def _flat_gradients(parameters: list[nn.Parameter]) -> Payload | None:
    if not parameters:
        return None
    gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
    return (parameters_to_vector(gradients).to("cpu"),)


def _slices(parameters: list[nn.Parameter], flat: Tensor) -> Iterator[tuple[nn.Parameter, Tensor]]:
    pieces = flat.split([p.numel() for p in parameters])
    return zip(
        parameters,
        (piece.view_as(p) for p, piece in zip(parameters, pieces, strict=True)),
        strict=True,
    )


def _add_gradients(parameters: list[nn.Parameter], flat: Tensor) -> None:
    for parameter, gradient in _slices(parameters, flat):
        if parameter.grad is None:
            parameter.grad = gradient.clone()
        else:
            parameter.grad += gradient


def _pull(parameters: list[nn.Parameter], flat: Tensor, alpha: float) -> None:
    with torch.no_grad():
        for parameter, partner in _slices(parameters, flat):
            parameter.lerp_(partner, alpha)
