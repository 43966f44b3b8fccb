"""One block's step by hand: what is pulled towards what, what leaves, what is drawn."""

import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parameters_to_vector

from models.block import Learning, LocalBlock
from models.heads import DEFAULT_HEAD, HeadSpec
from models.network import Network, Unit, trace_units, write_input
from models.numerics import Numerics
from models.objectives import CrossEntropy, NTXent, Objective
from models.sequential import train

IMAGE = (1, 2, 2)
BATCH = 5


def unit(name: str, *layers) -> Unit:
    return Unit(name=name, prefix=f"{name}.", build=lambda: nn.Sequential(*(f() for f in layers)))


def linear(name: str, num_inputs: int) -> Unit:
    return unit(name, lambda: nn.Flatten(1), lambda: nn.Linear(num_inputs, 3), nn.Tanh)


PLAIN = Network(name="plain", units=(linear("a", 4), linear("b", 3), linear("c", 3)))


def source(step: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(step)
    return torch.rand(2 * BATCH, *IMAGE, generator=generator), torch.arange(BATCH) % 2


def learning(tie: str, **changes) -> Learning:
    figures = {
        "alpha": 0.25,
        "optimizer": "torch.optim:SGD",
        "lr": 0.1,
        "weight_decay": 0.0,
        **{"schedule": "constant", "warmup_steps": 0, "num_steps": 8},
        "seed": 1,
    }
    return Learning(tie=tie, **(figures | changes))


def two_blocks(
    tie: str,
    *,
    network: Network = PLAIN,
    objective: Objective | None = None,
    head: str = DEFAULT_HEAD,
    **changes,
) -> tuple[LocalBlock, LocalBlock]:
    """Homes a | b c; the guest of the lower block is b."""
    traces = trace_units(network, IMAGE)

    def block(home: range, guest: range, lent: range) -> LocalBlock:
        return LocalBlock(
            network,
            home=home,
            guest=guest,
            lent=lent,
            learning=learning(tie, **changes),
            objective=objective or NTXent(0.5),
            num_classes=2,
            head=HeadSpec(
                name=head,
                in_shape=traces[(*home, *guest)[-1]].output_shape,
                out_features=objective.head_features if objective else None,
                block_index=home.start,
            ),
            home_shape=traces[home[-1]].output_shape,
            source=None if lent else source,
            copies_input=write_input(traces[unit] for unit in home),
            writers=frozenset(i for i, trace in enumerate(traces) if trace.writes_input),
        )

    top = len(network.units)
    return (
        block(range(1), range(1, 2), range(0)),
        block(range(1, top), range(top, top), range(1, 2)),
    )


def guest(lower: LocalBlock) -> Tensor:
    return parameters_to_vector(lower._guest.parameters()).detach().clone()


def shared_home(upper: LocalBlock) -> Tensor:
    return parameters_to_vector(upper._home["1"].parameters()).detach().clone()


def both_updates(lower: LocalBlock, upper: LocalBlock, step: int):
    activation = lower.forward(step, None)
    lower_ties = lower.update(step)
    upper.forward(step, activation)
    return lower_ties, upper.update(step)


# Elastic ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("lag", [0, 1, 2])
def test_elastic_pulls_after_its_own_step(lag):
    """By hand: after its own step, towards the partner's weights before its pull."""
    lower, upper = two_blocks("elastic")
    assert torch.equal(guest(lower), shared_home(upper))
    own_homes, downs = [], []
    for step in range(5):
        lower_ties, upper_ties = both_updates(lower, upper, step)
        own_guest, own_home = guest(lower), shared_home(upper)
        own_homes.append(own_home)
        downs.append(upper_ties.down)
        assert torch.equal(lower_ties.up[0], own_guest)
        assert torch.equal(upper_ties.down[0], own_home)
        assert upper_ties.up is None
        assert lower_ties.down is None

        late = step - lag
        lower.apply(step, None, downs[late] if late >= 0 else None)
        upper.apply(step, lower_ties.up, None)
        # as of t upward, as of t - lag downward
        torch.testing.assert_close(shared_home(upper), 0.75 * own_home + 0.25 * own_guest)
        if late >= 0:
            torch.testing.assert_close(guest(lower), 0.75 * own_guest + 0.25 * own_homes[late])
        else:
            assert torch.equal(guest(lower), own_guest)


def test_elastic_steps_before_it_tells_its_weights():
    lower, upper = two_blocks("elastic")
    before = guest(lower)
    ties, _ = both_updates(lower, upper, 0)
    assert not torch.equal(ties.up[0], before)


def test_weights_that_were_told_do_not_change_with_the_block():
    lower, upper = two_blocks("elastic")
    ties, others = both_updates(lower, upper, 0)
    told = ties.up[0].clone(), others.down[0].clone()
    lower.apply(0, None, others.down)
    upper.apply(0, ties.up, None)
    both_updates(lower, upper, 1)
    assert torch.equal(ties.up[0], told[0])
    assert torch.equal(others.down[0], told[1])


def test_pull_is_of_shared_units_only():
    lower, upper = two_blocks("elastic")
    ties, others = both_updates(lower, upper, 0)
    own = {**lower.state(), **{f"upper/{n}": v for n, v in upper.state().items()}}
    own = {name: value.clone() for name, value in own.items()}
    lower.apply(0, None, others.down)
    upper.apply(0, ties.up, None)
    now = {**lower.state(), **{f"upper/{n}": v for n, v in upper.state().items()}}
    changed = {name for name in own if not torch.equal(own[name], now[name])}
    assert changed == {
        "guest/b.1.weight",
        "guest/b.1.bias",
        "upper/home/b.1.weight",
        "upper/home/b.1.bias",
    }


# Gradient --------------------------------------------------------------------------------------


def test_gradient_steps_once_with_the_sum_of_both():
    lower, upper = two_blocks("gradient")
    start = guest(lower)
    ties, others = both_updates(lower, upper, 0)
    assert torch.equal(guest(lower), start)  # it has not stepped yet
    lower.apply(0, None, others.down)
    upper.apply(0, ties.up, None)
    expected = start - 0.1 * (ties.up[0] + others.down[0])
    torch.testing.assert_close(guest(lower), expected)
    assert torch.equal(guest(lower), shared_home(upper))


def test_gradient_steps_with_its_own_if_the_partner_is_absent():
    lower, upper = two_blocks("gradient")
    start = guest(lower)
    ties, _ = both_updates(lower, upper, 0)
    lower.apply(0, None, None)
    torch.testing.assert_close(guest(lower), start - 0.1 * ties.up[0])


def test_gradients_that_were_told_do_not_change_with_the_block():
    lower, upper = two_blocks("gradient")
    ties, others = both_updates(lower, upper, 0)
    told = ties.up[0].clone(), others.down[0].clone()
    lower.apply(0, None, others.down)
    upper.apply(0, ties.up, None)
    assert torch.equal(ties.up[0], told[0])
    assert torch.equal(others.down[0], told[1])


# Follow ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("lag", [0, 1, 2])
@pytest.mark.parametrize("alpha", [0.25, 1.0])
def test_follow_pulls_the_guest_alone(lag, alpha):
    """By hand: unchanged by its own step, then towards the home as of t - lag."""
    lower, upper = two_blocks("follow", alpha=alpha, optimizer="adamw", weight_decay=0.1)
    own_homes, downs = [], []
    for step in range(5):
        before, home_before = guest(lower), parameters_to_vector(lower._home.parameters()).detach()
        lower_ties, upper_ties = both_updates(lower, upper, step)
        assert torch.equal(guest(lower), before)
        assert not torch.equal(parameters_to_vector(lower._home.parameters()), home_before)
        assert (lower_ties.up, lower_ties.down, upper_ties.up) == (None, None, None)
        own_homes.append(shared_home(upper))
        downs.append(upper_ties.down)
        assert torch.equal(upper_ties.down[0], own_homes[step])

        late = step - lag
        lower.apply(step, None, downs[late] if late >= 0 else None)
        upper.apply(step, None, None)
        assert torch.equal(shared_home(upper), own_homes[step])
        expected = before if late < 0 else (1 - alpha) * before + alpha * own_homes[late]
        torch.testing.assert_close(guest(lower), expected)
        if alpha == 1 and late >= 0:
            assert torch.equal(guest(lower), own_homes[late])


def test_guest_that_follows_has_no_moments():
    lower, upper = two_blocks("follow", optimizer="adamw")
    both_updates(lower, upper, 0)
    assert not [name for name in lower.state() if name.startswith("optimizer/guest/")]
    assert [name for name in lower.state() if name.startswith("optimizer/home/")]


def test_guest_that_follows_keeps_its_own_statistics(cut_blocks):
    lower, upper = cut_blocks((0, 1), tie="follow", alpha=1.0)
    before = {name: t.clone() for name, t in lower.state().items() if "running" in name}
    train([lower, upper], num_steps=3, lag=1)
    guests = [name for name in before if name.startswith("guest/")]
    assert guests
    for name in guests:
        assert not torch.equal(lower.state()[name], before[name])
        assert not torch.equal(lower.state()[name], upper.state()[name.replace("guest", "home")])


def test_home_learns_the_same_through_a_guest_that_is_frozen():
    """Of the first step: what flows through it does not depend on whether it is trained."""
    homes = []
    for tie in ("follow", "none"):
        lower, upper = two_blocks(tie)
        both_updates(lower, upper, 0)
        homes.append(parameters_to_vector(lower._home.parameters()))
    assert torch.equal(*homes)


# None ------------------------------------------------------------------------------------------


def test_guest_without_a_tie_is_a_private_decoder():
    lower, upper = two_blocks("none")
    start = guest(lower)
    ties, others = both_updates(lower, upper, 0)
    assert ties == others == (None, None, False)
    own = guest(lower), shared_home(upper)
    assert not torch.equal(own[0], start)
    lower.apply(0, None, None)
    upper.apply(0, None, None)
    assert torch.equal(guest(lower), own[0])
    assert torch.equal(shared_home(upper), own[1])


# The edge --------------------------------------------------------------------------------------


def test_no_gradient_crosses_the_edge():
    lower, upper = two_blocks("gradient")  # which keeps gradients until `apply`
    activation = lower.forward(0, None)
    assert activation[0].grad_fn is None
    assert not activation[0].requires_grad
    upper.forward(0, activation)
    upper.update(0)
    assert all(p.grad is None for p in lower._home.parameters())
    assert activation[0].grad is None
    assert all(p.grad is not None for p in upper._home.parameters())


@pytest.mark.parametrize("tie", ["none", "gradient"])
def test_no_gradients_are_kept_between_steps(tie):
    """They would lie beside all that the next step saves of its activations."""
    lower, upper = two_blocks(tie)
    ties, others = both_updates(lower, upper, 0)
    lower.apply(0, None, others.down)
    upper.apply(0, ties.up, None)
    assert all(p.grad is None for block in (lower, upper) for p in block._trained)


def test_block_learns_in_home_guest_and_head():
    lower, upper = two_blocks("none")
    before = {name: value.clone() for name, value in lower.state().items()}
    both_updates(lower, upper, 0)
    now = lower.state()
    learned = [name for name in before if name.endswith("weight")]
    assert {name.split("/")[0] for name in learned} == {"home", "guest", "head", "probe"}
    assert not any(torch.equal(before[name], now[name]) for name in learned)


def test_sent_tensors_are_contiguous_copies_on_the_cpu():
    lower, _ = two_blocks("none")
    views, labels = lower.forward(0, None)
    assert views.is_contiguous()
    assert views.shape == (2 * BATCH, 3)
    assert torch.equal(labels, source(0)[1])
    sent = views.clone()
    lower.update(0)
    assert torch.equal(views, sent)


def relu_first(*, in_place: bool) -> Network:
    """Unit b overwrites its input, or does not, and computes the same."""
    return Network(
        name="relu",
        units=(
            unit("a", lambda: nn.Flatten(1), lambda: nn.Linear(4, 3)),
            unit("b", lambda: nn.ReLU(inplace=in_place), lambda: nn.Linear(3, 3)),
            unit("c", lambda: nn.Linear(3, 3)),
        ),
    )


def test_guest_that_works_in_place_changes_nothing():
    runs = []
    for in_place in (True, False):
        lower, _ = two_blocks("none", network=relu_first(in_place=in_place))
        activation, _ = lower.forward(0, None)
        lower.update(0)
        runs.append({"sent": activation, **lower.state()})
    assert (activation < 0).any()
    assert all(torch.equal(tensor, runs[1][name]) for name, tensor in runs[0].items())


def test_home_that_works_in_place_leaves_its_input_as_it_came():
    """Its sender may send it again."""
    lower, upper = two_blocks("none", network=relu_first(in_place=True))
    before = (activation := lower.forward(0, None))[0].clone()
    assert upper.forward(0, activation) is None
    assert torch.equal(activation[0], before)


def test_norms_of_images_do_not_decay():
    layers = (lambda: nn.LayerNorm(IMAGE), nn.Flatten, lambda: nn.Linear(4, 3))
    network = Network(name="normed", units=(unit("a", *layers), *PLAIN.units[1:]))
    lower, _ = two_blocks("none", network=network, weight_decay=0.5)
    decays = {
        name: group["weight_decay"]
        for group in lower._optimizer.param_groups
        for name, parameter in lower._home.named_parameters()
        if any(parameter is member for member in group["params"])
    }
    assert decays == {"0.0.weight": 0, "0.0.bias": 0, "0.2.weight": 0.5, "0.2.bias": 0}


class Reconstruction:
    """A loss of the block's input."""

    uses_labels, head_features, needs = False, None, ("block_input",)

    def __init__(self) -> None:
        self.inputs: list[Tensor] = []

    def __call__(self, projections, labels_B, *, block_input):
        self.inputs.append(block_input)
        return projections.square().sum() * block_input.square().sum()


def test_loss_is_given_the_images_as_they_came():
    """A first unit that works in place spoilt them, unless it was recomputed: other bits."""
    clamped = unit(
        "a", lambda: nn.Hardtanh(0.4, 0.6, inplace=True), nn.Flatten, lambda: nn.Linear(4, 3)
    )
    network = Network(name="clamped", units=(clamped, *PLAIN.units[1:]))
    states = []
    for recompute in (False, True):
        objective = Reconstruction()
        lower, _ = two_blocks(
            "none",
            network=network,
            objective=objective,
            numerics=Numerics(recompute=recompute),
        )
        lower.forward(0, None)
        lower.update(0)
        assert torch.equal(objective.inputs[0], source(0)[0])
        states.append(lower.state())
    assert all(torch.equal(tensor, states[1][name]) for name, tensor in states[0].items())


def test_users_head_may_work_in_place(tmp_path):
    """Its block's backward failed: the unit below needs its output as it was."""
    (tmp_path / "own.py").write_text(
        "from torch import nn\n"
        "def head(in_shape, **given):\n"
        "    return nn.Sequential(nn.LeakyReLU(0.5, inplace=True), nn.Linear(3, 4))\n"
    )
    lower, upper = two_blocks("none", head=f"{tmp_path}/own.py:head")
    both_updates(lower, upper, 0)
    assert math.isfinite(lower.loss + upper.loss)


def test_top_block_sends_nothing():
    lower, upper = two_blocks("none")
    assert upper.forward(0, lower.forward(0, None)) is None


def test_labels_reach_a_loss_that_uses_them_and_no_other():
    shuffled = torch.tensor([1, 1, 0, 0, 1])
    for objective, matters in ((CrossEntropy(2), True), (NTXent(0.5), False)):
        losses = []
        for labels in (source(0)[1], shuffled):
            lower, upper = two_blocks("none", objective=objective)
            activation, _ = lower.forward(0, None)
            upper.forward(0, (activation, labels))
            upper.update(0)
            losses.append(upper.loss)
        assert (losses[0] != losses[1]) is matters


def test_loss_and_probe_have_no_figure_before_the_first_step():
    lower, _ = two_blocks("none")
    assert math.isnan(lower.loss)
    assert math.isnan(lower.probe_top1)


# Draws and buffers -----------------------------------------------------------------------------

NOISY = Network(
    name="noisy",
    units=(
        linear("a", 4),
        unit("b", lambda: nn.Linear(3, 3), lambda: nn.BatchNorm1d(3), lambda: nn.Dropout(0.5)),
        linear("c", 3),
    ),
)


def masks(block: LocalBlock, part: str) -> list[Tensor]:
    """Record which features the dropout of unit b let through."""
    seen: list[Tensor] = []
    dropout = getattr(block, part)["1"][2]
    dropout.register_forward_hook(lambda module, inputs, output: seen.append(output != 0))
    return seen


def test_guest_drops_what_its_home_drops_anew_at_each_step():
    lower, upper = two_blocks("elastic", network=NOISY)
    guests, homes = masks(lower, "_guest"), masks(upper, "_home")
    for step in range(3):
        ties, others = both_updates(lower, upper, step)
        lower.apply(step, None, others.down)
        upper.apply(step, ties.up, None)
    assert all(torch.equal(a, b) for a, b in zip(guests, homes, strict=True))
    assert not torch.equal(guests[0], guests[1])


def test_draws_do_not_depend_on_what_ran_before():
    one, _ = two_blocks("none", network=NOISY)
    other, _ = two_blocks("none", network=NOISY)
    one.forward(0, None)
    one.update(0)
    torch.manual_seed(77)
    other.forward(0, None)
    torch.rand(5)
    other.update(0)
    assert one.loss == other.loss


def test_batchnorm_buffers_are_each_replicas_own():
    lower, upper = two_blocks("elastic", network=NOISY, alpha=1.0)
    both_updates(lower, upper, 0)
    lower.forward(1, None)
    ties = lower.update(1)  # one more than the home has seen
    before = {n: b.clone() for n, b in upper._home["1"].named_buffers()}
    upper.apply(1, ties.up, None)
    after = dict(upper._home["1"].named_buffers())
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert int(dict(lower._guest["1"].named_buffers())["1.num_batches_tracked"]) == 2
    assert int(after["1.num_batches_tracked"]) == 1
    # Ties carry parameters alone: 3x3 + 3 of the layer, 3 + 3 of the normalisation.
    assert ties.up[0].numel() == 18


def test_guest_begins_as_an_exact_copy():
    lower, upper = two_blocks("elastic", network=NOISY)
    home = upper._home["1"].state_dict()
    assert all(torch.equal(v, home[n]) for n, v in lower._guest["1"].state_dict().items())


def test_home_state_bears_the_plain_networks_names():
    lower, upper = two_blocks("none", network=NOISY)
    assert list(lower.home_state()) == ["a.1.weight", "a.1.bias"]
    assert "b.1.running_mean" in upper.home_state()
    assert not any(name.startswith("b") for name in lower.home_state())


def test_state_holds_the_optimizers_and_the_probes():
    lower, upper = two_blocks("none", optimizer="adamw")
    both_updates(lower, upper, 0)
    names = set(lower.state())
    assert "optimizer/home/a.1.weight/exp_avg" in names
    assert "optimizer/guest/b.1.weight/exp_avg" in names
    assert any(name.startswith("optimizer/head/") for name in names)
    assert "probe/weight" in names


def test_learning_rate_follows_the_schedule():
    lower, upper = two_blocks("none", schedule="cosine", warmup_steps=2, lr=1.0)
    rates = []
    for step in range(4):
        both_updates(lower, upper, step)
        rates.append(lower._optimizer.param_groups[0]["lr"])
    assert rates == pytest.approx([0.5, 1.0, 1.0, 0.5 * (1 + math.cos(math.pi / 6))])


def test_labels_reach_no_loss_that_does_not_ask_for_them():
    seen = []

    class Curious(NTXent):
        def __call__(self, projections_2BD, labels_B):
            seen.append(labels_B.tolist())
            return super().__call__(projections_2BD, labels_B)

    class Asks(Curious):
        uses_labels = True

    for objective in (Curious(0.5), Asks(0.5)):
        lower, _ = two_blocks("none", objective=objective)
        lower.forward(0, None)
        lower.update(0)
    assert set(seen[0]) == {-1}
    assert min(seen[1]) >= 0


# Rates and clipping ----------------------------------------------------------------------------


def test_gradient_is_clipped_before_it_is_told():
    free, clipped = two_blocks("gradient")[0], two_blocks("gradient", grad_clip=0.01)[0]
    for block in (free, clipped):
        block.forward(0, None)
        block.update(0)
    norm = torch.stack([p.grad.norm() for p in free._trained]).norm()
    assert norm > 0.01
    for loose, tight in zip(free._trained, clipped._trained, strict=True):
        torch.testing.assert_close(tight.grad, loose.grad * 0.01 / norm, rtol=1e-4, atol=1e-9)


def test_sum_of_both_ends_of_a_tie_is_not_clipped():
    lower, upper = two_blocks("gradient", grad_clip=0.01)
    start = guest(lower).clone()
    ties, others = both_updates(lower, upper, 0)
    both = ties.up[0] + others.down[0]
    assert both.norm() > ties.up[0].norm(), "the block's own gradient is at the limit already"
    lower.apply(0, None, others.down)
    torch.testing.assert_close(guest(lower), start - 0.1 * both, rtol=1e-6, atol=1e-9)


def test_small_gradient_is_not_clipped():
    free, clipped = two_blocks("none")[0], two_blocks("none", grad_clip=1e6)[0]
    for block in (free, clipped):
        block.forward(0, None)
        block.update(0)
    assert torch.equal(guest(free), guest(clipped))


def test_guest_has_the_learning_rate_of_its_home():
    """A shared unit that is tied by gradients must stay one, whatever the two blocks' rates."""
    lower, _ = two_blocks("gradient", lr_scale=0.5, guest_lr_scale=2.0)
    _, upper = two_blocks("gradient", lr_scale=2.0)
    start, home = guest(lower), parameters_to_vector(lower._home.parameters()).detach().clone()
    ties, others = both_updates(lower, upper, 0)
    gradients = [p.grad for p in lower._home.parameters()]
    lower.apply(0, None, others.down)
    upper.apply(0, ties.up, None)
    assert torch.equal(guest(lower), shared_home(upper))
    torch.testing.assert_close(guest(lower), start - 0.2 * (ties.up[0] + others.down[0]))
    moved = parameters_to_vector(lower._home.parameters())
    torch.testing.assert_close(moved, home - 0.05 * parameters_to_vector(gradients))
