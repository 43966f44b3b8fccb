"""One block's step: home forward, guest and head, loss, backward, optimizer, tie.

Owns everything a worker holds. Knows nothing of processes, links or when its methods are called;
the sequential reference and the workers share this file and nothing else. The caller runs, for
step 0, 1, ...: `forward`, `update`, `apply`; `state` and `load` between steps.

Shapes: B batch, C channels, H height, W width, N = 2B (both views stacked), D features.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from models import randomness
from models.arrivals import Arrivals
from models.bad_numbers import BadSteps, all_finite, norm_of
from models.compilation import compile_units
from models.copies import MADE, Copy
from models.device import make_copies, numbers
from models.heads import HeadSpec, load_head, run_head
from models.network import Network
from models.numerics import FP32, Numerics, unchanged
from models.objectives import Objective, needs_of
from models.optimizer_state import OptimizerState
from models.optimizers import (
    learning_rate,
    load_optimizer,
    norms_and_biases,
    set_learning_rate,
    step_optimizer,
)
from models.plugins import is_dotted
from models.pooling import num_features, pool
from models.probe import LinearProbe
from models.ties import (
    RULES,
    Tie,
    add_gradients,
    flat_gradients,
    flat_weights,
    overflows,
    pull,
    round_gradients,
)
from models.unit_module import changed_form, forms_of, own_tensors
from models.unsaveable import Unsaveable
from models.wire import EXACT, Wire

Payload = tuple[Tensor, ...]
Source = Callable[[int], Payload]


@dataclass(frozen=True, kw_only=True)
class Learning:
    """How a block learns. `alpha` is the pull of ties that pull.

    `lr_scale` multiplies the rate of home and head, `guest_lr_scale` that of the guest. The norm of
    the block's own gradient is clipped to `grad_clip`, before ties. `max_bad_steps` steps in a row
    without finite numbers end the run. `earlier_lengths`: see models.optimizers.learning_rate.
    `wire_below` and `wire_above` are the edges' to both sides.
    """

    tie: Tie
    alpha: float
    optimizer: str
    lr: float
    weight_decay: float
    schedule: Literal["constant", "cosine"]
    warmup_steps: int
    num_steps: int
    seed: int
    earlier_lengths: tuple[tuple[int, int], ...] = ()
    lr_scale: float = 1.0
    guest_lr_scale: float = 1.0
    grad_clip: float | None = None
    numerics: Numerics = FP32
    wire_below: Wire = EXACT
    wire_above: Wire = EXACT
    device: str = "cpu"
    max_bad_steps: int = 10


class Ties(NamedTuple):
    """What a block's update offers its neighbours: flat vectors over the shared parameters.

    `absent`: a neighbour waits for a vector, and this step has none that is finite, also on the
    wire.
    """

    up: Payload | None  # over the guest's, for the block above
    down: Payload | None  # over the home's units that are the guest of the block below
    absent: bool = False


class LocalBlock:
    """Home, guest and head of one block, with its objective, optimizer and probe.

    `home` and `guest` are ranges of units; `lent` is the range of home units that the block
    below replicates. `source` gives the lowest block its batches: views (2B, C, H, W) and labels
    (B,); other blocks get theirs as activations. At the steps in `poisoned` the loss is made
    NaN, to see what becomes of it. `copies_input`: the home works in place on its input, which
    must stay as it is, and `writes_output`: the guest so on the home's output; `writers` are the
    units that work in place on theirs. With `copies_beside` what `forward` and `update` return is
    there only when `leaving` is done.
    """

    def __init__(
        self,
        network: Network,
        *,
        home: range,
        guest: range,
        lent: range,
        learning: Learning,
        objective: Objective,
        num_classes: int,
        head: HeadSpec,
        home_shape: tuple[int, ...],
        source: Source | None = None,
        poisoned: frozenset[int] = frozenset(),
        copies_input: bool = False,
        writes_output: bool = True,
        writers: frozenset[int] = frozenset(),
        copies_beside: bool = False,
    ) -> None:
        self.learning = learning
        self.device = torch.device(learning.device)
        self._copies = make_copies(self.device, beside=copies_beside)
        self._arrivals = Arrivals(self._copies, self.device)
        self._copies_input = copies_input
        self._writes_output = writes_output
        self._writers = writers
        self._source = source
        self._poisoned = poisoned
        self._objective = objective
        self._block_index = head.block_index
        self._is_top = guest.stop == len(network.units) and not guest
        self._build_units(network, home, guest, lent)
        self._build_head(head)
        self._build_optimizer()
        self.probe = LinearProbe(num_features(home_shape), num_classes)
        self._input_NCHW: Tensor | None = None
        self._output_NCHW: Tensor | None = None
        self._labels_B: Tensor | None = None
        self._labels_for_loss_B: Tensor | None = None  # on the device
        self._buffer_forms: dict[str, str] | None = None  # as the first step found them
        self._buffers_before: dict[str, Tensor] | None = None
        self.loss = math.nan
        self.leaving: Copy = MADE

    def _build_units(self, network: Network, home: range, guest: range, lent: range) -> None:
        self._units = {i: network.units[i] for i in (*home, *guest)}
        built = {i: network.build_unit(i, seed=self.learning.seed) for i in self._units}
        self._home = nn.ModuleDict({str(i): built[i] for i in home}).to(self.device)
        self._guest = nn.ModuleDict({str(i): built[i] for i in guest}).to(self.device)
        self._top_name = network.units[(*home, *guest)[-1]].name
        self._lent = _parameters(self._home[str(i)] for i in lent)
        self._borrowed = _parameters(self._guest.values())  # before it may be frozen
        self._rule = RULES[self.learning.tie]
        if not self._rule.trains_guest:
            self._guest.requires_grad_(False)

    def _build_head(self, spec: HeadSpec) -> None:
        randomness.seed_torch(self.learning.seed, "head", unit=self._top_name)
        self._head = load_head(spec).to(self.device)
        self._head_is_users = is_dotted(spec.name)

    def _build_optimizer(self) -> None:
        learning = self.learning
        self._trained = _parameters([self._home, self._guest, self._head])
        self._optimizer = load_optimizer(
            learning.optimizer,
            self._trained,
            lr=learning.lr,
            weight_decay=learning.weight_decay,
            lr_scales=dict.fromkeys(self._borrowed, learning.guest_lr_scale),
            lr_scale=learning.lr_scale,
            spared=norms_and_biases([self._home, self._guest, self._head]),
        )
        self._optimizer_state = OptimizerState(
            learning.optimizer, self._optimizer, self._trained_by_name()
        )
        self._bad_steps = BadSteps(
            units=list(self.home_units),
            max_in_a_row=learning.max_bad_steps,
            lr=learning.lr,
            has_fp16_edge="fp16" in (learning.wire_below.precision, learning.wire_above.precision),
        )

    def _trained_by_name(self) -> dict[str, nn.Parameter]:
        trained = set(self._trained)
        return {
            name: p for name, p in self._tensors() if isinstance(p, nn.Parameter) and p in trained
        }

    @property
    def probe_top1(self) -> float:
        """The online probe's running top-1 on training batches; NaN before any."""
        top1 = self.probe.top1
        return math.nan if top1 is None else top1

    @property
    def num_bad_steps(self) -> int:
        """How many steps were left out, or their ties, since numbers in them were not finite."""
        return self._bad_steps.num_bad_steps

    @property
    def home_units(self) -> dict[str, list[str]]:
        """The home's units, lowest first, each with its tensors' names in the plain network."""
        return self._unit_tensors(self._home)

    @property
    def guest_units(self) -> dict[str, list[str]]:
        """The guest's units, likewise."""
        return self._unit_tensors(self._guest)

    # The step ---------------------------------------------------------------------------------

    def compile_units(self, blank_NCHW: Tensor) -> None:
        """Compile home and guest for inputs like `blank_NCHW`, by a step on it that changes no
        tensor; what units hold beside tensors is as after that step. Blocks for some seconds a
        unit."""
        compile_units([*self._home.values(), *self._guest.values()])
        blank_NCHW = self.learning.numerics.laid_out(blank_NCHW.to(self.device))
        with unchanged(self._home), unchanged(self._guest):
            output_NCHW = self._run(self._home, blank_NCHW, step=0)
            top_NCHW = self._run(self._guest, output_NCHW, step=0)
            if top_NCHW.requires_grad:
                top_NCHW.sum().backward()
        self._free_gradients()

    def expect(self, payload: Payload) -> None:
        """Begin to bring what `forward` or `apply` will be given to the block's device."""
        for tensor in payload:
            self._arrivals.expect(tensor)

    def will_read(self, memory: Tensor) -> None:
        """Let the block's GPU read there by itself, where payloads will lie."""
        self._copies.will_read(memory)

    def forward(self, step: int, incoming: Payload | None) -> Payload | None:
        """Run the home on `incoming` (N, C, H, W), (B,); return what the block above receives.

        The activation is detached, contiguous and a copy, since the guest may work in place, and
        rounded as the wire above asks; it is there when `leaving` is done. None from the top
        block, which has no one above. The guest goes on with what was computed. Raises Unsaveable
        if a buffer has changed its form.
        """
        if incoming is None:
            assert self._source is not None, "a block without a source needs an activation"
            incoming = self._source(step)
        self._labels_B = incoming[1].clone()  # handed on, when the incoming ones may be gone
        x_NCHW, self._labels_for_loss_B = map(self._arrivals.take, incoming)
        if not self._labels_for_loss_B.is_cuda:
            self._labels_for_loss_B = self._labels_B
        x_NCHW = self._laid_out(x_NCHW)
        self._bad_steps.look_at(x_NCHW)
        self._buffers_before = self._copied_buffers()
        self._input_NCHW = x_NCHW
        if self._copies_input:
            x_NCHW = x_NCHW.clone()
        self._output_NCHW = self._run(self._home, x_NCHW, step)
        if self._is_top:
            return None
        activation = self.learning.numerics.to_wire(self._output_NCHW.detach())
        dtype = self.learning.wire_above.activation_dtype(activation.dtype)
        activation = self._begin_to_leave(activation, dtype)
        if self._writes_output:
            self.leaving.wait()
        return activation, self._labels_B

    def _copied_buffers(self) -> dict[str, Tensor]:
        if self._buffer_forms is None:
            self._buffer_forms = self._forms_of_buffers()
        self._check_buffers()
        return {name: buffer.clone() for name, buffer in self._buffers()}

    def _check_buffers(self) -> None:
        """Raise Unsaveable if a buffer has changed its form since the step before."""
        before = self._buffers_before
        if before is not None and _shapes(before) != _shapes(dict(self._buffers())):
            assert self._buffer_forms is not None, "the first step notes them"
            change = changed_form(self._buffer_forms, self._forms_of_buffers())
            raise Unsaveable(f"block {self._block_index} {change}")

    def _for_host(self, x: Tensor) -> Tensor:
        """What was computed: a copy on the host that is there when `leaving` is done, or itself."""
        return self._begin_to_leave(x, x.dtype) if x.is_cuda else x

    def _begin_to_leave(self, x: Tensor, dtype: torch.dtype) -> Tensor:
        """A contiguous copy on the host, in that type, that is there when `leaving` is done; a GPU
        converts it first."""
        source = x.to(dtype) if x.is_cuda else x
        there = self._copies.empty_on_host(source, dtype)
        self.leaving = self._copies.copy_async(source, there)
        return there

    def _laid_out(self, x_NCHW: Tensor) -> Tensor:
        """What the home runs on, of a batch or of an activation as the wire below carried it."""
        numerics, wire = self.learning.numerics, self.learning.wire_below
        if self._source is not None:
            return numerics.laid_out(x_NCHW)
        return numerics.from_wire(wire.restore(x_NCHW))

    def update(self, step: int) -> Ties:
        """Guest, head, loss, backward; own optimizer step unless the tie adds gradients.

        A bad step is left out: its loss or gradients are not finite, or overflow on the wire, or
        its input did. Nothing is learned of it, the buffers are as before it, and `loss` is not
        finite. If weights overflow on the wire, the step is taken and its ties are absent. Raises
        BadNumbers if either happens for the learning's `max_bad_steps`-th time in a row.
        """
        features_ND, loss = self._backward(step)
        is_finite = self._are_finite(loss)
        self.leaving.wait()  # before anything changes that it may be a view of
        is_good = is_finite and self._prepare_gradients()
        if is_good:
            assert self._labels_B is not None
            self.probe.observe(features_ND, self._labels_B.repeat(2))
            if not self._rule.adds_gradients:
                self._step_optimizer(step)
        else:
            self._leave_out()
        ties = self._ties(is_good)
        if is_good and not ties.absent:
            self._bad_steps.passed(self.loss)
        else:
            self._bad_steps.failed(step, self.loss)
        return ties

    def _backward(self, step: int) -> tuple[Tensor, Tensor]:
        """Leave the gradients; return the home's pooled output (N, D), which leaves for the host,
        and the loss."""
        assert self._input_NCHW is not None, "update follows forward"
        assert self._output_NCHW is not None, "update follows forward"
        output_NCHW, self._output_NCHW = self._output_NCHW, None
        # Before the guest, which may work in place on what it is given.
        features_ND = self._for_host(pool(output_NCHW.detach().float()).clone())
        needed = self._needed(self._input_NCHW, output_NCHW)
        top_NCHW = self._run(self._guest, output_NCHW, step)
        if self._head_is_users:  # which may work in place on what a unit's backward needs
            top_NCHW = top_NCHW.clone()
        randomness.seed_torch(self.learning.seed, "head-dropout", unit=self._top_name, step=step)
        projections = run_head(self._head, top_NCHW, self.learning.numerics)
        loss = self._objective(projections, self._labels_of_loss(), **needed)
        if step in self._poisoned:
            loss = loss * math.nan
        self._free_gradients()  # what a user's forward may have left
        loss.backward()
        return features_ND, loss.detach()

    def _needed(self, input_NCHW: Tensor, output_NCHW: Tensor) -> dict[str, Tensor | int]:
        """What the objective asks for beside projections and labels, in float32: copies, for the
        guest or the loss may work in place, and a message may be memory of its sender's."""
        numerics, needed = self.learning.numerics, needs_of(self._objective)
        found: dict[str, Tensor | int] = {}
        if "block_input" in needed:
            found["block_input"] = numerics.for_loss(input_NCHW.clone())
        if "home_output" in needed:
            found["home_output"] = numerics.for_loss(output_NCHW.clone())
        if "block_index" in needed:
            found["block_index"] = self._block_index
        return found

    def _are_finite(self, loss: Tensor) -> bool:
        """Whether loss, gradients and an input that was rounded are. Here alone in a step the host
        waits for what the device computes."""
        assert self._input_NCHW is not None
        watched = [[p.grad for p in self._trained if p.grad is not None]]
        if self._source is None and self.learning.wire_below.rounds_activations:
            watched.append([self._input_NCHW])
        self._input_NCHW = None
        self.loss, *norms = numbers(loss, *map(norm_of, watched))
        return math.isfinite(self.loss) and all(
            math.isfinite(norm) or all_finite(tensors)
            for norm, tensors in zip(norms, watched, strict=True)
        )

    def _prepare_gradients(self) -> bool:
        """Clip finite gradients, and round those that a neighbour adds, in place; return whether
        all is finite on the wire."""
        if self.learning.grad_clip is not None:
            nn.utils.clip_grad_norm_(self._trained, self.learning.grad_clip)
        return not self._rule.adds_gradients or (
            round_gradients(self._borrowed, self.learning.wire_above)
            and round_gradients(self._lent, self.learning.wire_below)
        )

    def _leave_out(self) -> None:
        self._free_gradients()
        self._check_buffers()
        assert self._buffers_before is not None, "a step that is left out was begun"
        with torch.no_grad():
            for name, buffer in self._buffers():
                buffer.copy_(self._buffers_before[name])
        if math.isfinite(self.loss):
            self.loss = math.nan  # finite, but its gradients or its input are not

    def _ties(self, is_good: bool) -> Ties:
        rule, learning = self._rule, self.learning
        if rule.adds_gradients and not is_good:
            return Ties(up=None, down=None, absent=bool(self._borrowed or self._lent))
        flat = flat_gradients if rule.adds_gradients else flat_weights
        up = flat(self._borrowed, learning.wire_above) if rule.sends_up else None
        down = flat(self._lent, learning.wire_below) if rule.sends_down else None
        if not rule.adds_gradients and (
            overflows(up, self._borrowed) or overflows(down, self._lent)
        ):
            return Ties(up=None, down=None, absent=True)
        return Ties(
            up=None if up is None else (self._for_host(up),),
            down=None if down is None else (self._for_host(down),),
        )

    def apply(self, step: int, from_below: Payload | None, from_above: Payload | None) -> None:
        """Apply the partners' ties; None: that term is absent. Of free ties that add, a payload is
        a vector a message, oldest first.

        A rule that adds gradients: add the partner's, then step; after a bad step these are all
        there is, and a parameter without any stays as it is. One that pulls: pull the weights by
        alpha (arXiv 1412.6651, eq. 6) towards the partner's.
        """
        pairs = [(self._lent, from_below), (self._borrowed, from_above)]
        for parameters, payload in pairs:
            for flat in payload or ():
                if self._rule.adds_gradients:
                    add_gradients(parameters, self._arrivals.take(flat))
                else:
                    pull(parameters, self._arrivals.take(flat), self.learning.alpha)
        if self._rule.adds_gradients and any(p.grad is not None for p in self._trained):
            self._step_optimizer(step)

    def _labels_of_loss(self) -> Tensor:
        """The labels, for an objective that uses them by name; for all others, unlabelled."""
        labels_B = self._labels_for_loss_B
        assert labels_B is not None
        return labels_B if self._objective.uses_labels else torch.full_like(labels_B, -1)

    def _run(self, units: nn.ModuleDict, x_NCHW: Tensor, step: int) -> Tensor:
        for index, module in units.items():
            name = self._units[int(index)].name
            x_NCHW = self.learning.numerics.run(
                module,
                x_NCHW,
                seed=partial(
                    randomness.seed_torch, self.learning.seed, "dropout", unit=name, step=step
                ),
                writes_input=int(index) in self._writers,
            )
        return x_NCHW

    def _step_optimizer(self, step: int) -> None:
        learning = self.learning
        lr = learning_rate(
            step,
            learning.num_steps,
            base=learning.lr,
            warmup_steps=learning.warmup_steps,
            schedule=learning.schedule,
            earlier_lengths=learning.earlier_lengths,
        )
        set_learning_rate(self._optimizer, lr)
        step_optimizer(self._optimizer)
        self._free_gradients()

    def _free_gradients(self) -> None:
        """Once they have been used: none are there while a step saves activations."""
        for parameter in self._trained:
            parameter.grad = None

    # What it holds ----------------------------------------------------------------------------

    def home_state(self) -> dict[str, Tensor]:
        """The home's weights and buffers, by their names in the plain network."""
        return {
            self._units[int(index)].prefix + name: value
            for index, module in self._home.items()
            for name, value in module.state_dict().items()
        }

    def state(self) -> dict[str, Tensor]:
        """Everything the block carries from step to step, by name.

        Homes, guests, head, optimizer, probe, count of bad steps. Weights, buffers and the
        optimizer's are the block's own tensors, not copies: their data may be moved elsewhere.
        """
        state: dict[str, Tensor] = dict(self._tensors())
        parts = {
            "optimizer": self._optimizer_state.state(),
            "probe": self.probe.state(),
            "bad": self._bad_steps.state(),
        }
        for part, tensors in parts.items():
            state |= {f"{part}/{name}": tensor for name, tensor in tensors.items()}
        return state

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Take over a copy of a state of `state()`; the block goes on as the one it came from.

        Raises ValueError, and changes nothing, if the state is of another block.
        """
        _check_fits(state, self.state())
        self._optimizer_state.check(_part(state, "optimizer"))
        with torch.no_grad():
            for name, tensor in self._tensors():
                tensor.copy_(state[name])
        self._optimizer_state.load(_part(state, "optimizer"))
        self.probe.load(_part(state, "probe"))
        self._bad_steps.load(_part(state, "bad"))
        was_good = self._bad_steps.num_in_a_row == 0
        self.loss = self._bad_steps.last_finite_loss if was_good else math.nan

    def _tensors(self) -> Iterator[tuple[str, Tensor]]:
        """All weights and buffers, each once, by part and the plain network's name."""
        for part, units in (("home", self._home), ("guest", self._guest)):
            for index, module in units.items():
                prefix = f"{part}/{self._units[int(index)].prefix}"
                yield from ((prefix + name, tensor) for name, tensor in own_tensors(module))
        yield from ((f"head/{name}", tensor) for name, tensor in own_tensors(self._head))

    def _buffers(self) -> Iterator[tuple[str, Tensor]]:
        """All buffers, each once, by names of the block's own."""
        for part, module in (("home", self._home), ("guest", self._guest), ("head", self._head)):
            yield from module.named_buffers(part)

    def _forms_of_buffers(self) -> dict[str, str]:
        return forms_of((n, t) for n, t in self._tensors() if not isinstance(t, nn.Parameter))

    def _unit_tensors(self, units: nn.ModuleDict) -> dict[str, list[str]]:
        members = ((self._units[int(index)], module) for index, module in units.items())
        return {
            unit.name: [unit.prefix + name for name, _ in own_tensors(module)]
            for unit, module in members
        }


def _shapes(tensors: Mapping[str, Tensor]) -> dict[str, tuple[torch.Size, torch.dtype]]:
    return {name: (tensor.shape, tensor.dtype) for name, tensor in tensors.items()}


def _part(state: Mapping[str, Tensor], part: str) -> dict[str, Tensor]:
    root = f"{part}/"
    return {name.removeprefix(root): t for name, t in state.items() if name.startswith(root)}


def _check_fits(given: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> None:
    """Compare names, shapes and types; but the optimizer's tensors are made as it steps."""
    given_forms, own_forms = _forms(given), _forms(own)
    names = sorted(given_forms.keys() | own_forms.keys())
    differ = [name for name in names if given_forms.get(name) != own_forms.get(name)]
    if differ:
        name = differ[0]
        raise ValueError(
            f"state {name!r} is {given_forms.get(name, 'missing')}, but the block's is"
            f" {own_forms.get(name, 'missing')} ({len(differ)} such in all); load it into a block"
            " of the model, cuts and heads that it was saved with"
        )


def _forms(state: Mapping[str, Tensor]) -> dict[str, str]:
    return {
        name: f"{tuple(tensor.shape)} {tensor.dtype}"
        for name, tensor in state.items()
        if not name.startswith("optimizer/")
    }


def _parameters(modules: Iterable[nn.Module]) -> list[nn.Parameter]:
    return [p for module in modules for p in module.parameters() if p.requires_grad]
