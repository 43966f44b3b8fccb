"""Another cut: what the new blocks take from the old ones, and that they learn on."""

import pytest
import torch
from torch import Tensor

from models.block import LocalBlock
from models.recut import OldBlock, carry
from models.sequential import train

OLD_STEPS = 6
# The old run's blocks: a b + c | c d e. Heads on c and on e, probes on b and on e.
OLD = {"cuts": (0, 2), "overlap": 1}


def old_block(block: LocalBlock) -> OldBlock:
    state = {name: tensor.clone() for name, tensor in block.state().items()}
    return OldBlock(home=tuple(block.home_units), guest=tuple(block.guest_units), state=state)


def trained(cut_blocks, **changes) -> list[OldBlock]:
    blocks = cut_blocks(**(OLD | {"tie": "elastic"} | changes))
    train(blocks, num_steps=OLD_STEPS, lag=1)
    return [old_block(block) for block in blocks]


def carried(old: list[OldBlock], block: LocalBlock) -> tuple[dict[str, Tensor], list[str]]:
    return carry(old, block.state(), home=block.home_units, guest=block.guest_units)


def same(new: dict[str, Tensor], old: dict[str, Tensor], root: str, old_root: str) -> int:
    """Assert that all below `root` equals what is below `old_root`; how many tensors that are."""
    found = {n.removeprefix(root): t for n, t in new.items() if n.startswith(root)}
    want = {n.removeprefix(old_root): t for n, t in old.items() if n.startswith(old_root)}
    assert found.keys() == want.keys()
    assert all(torch.equal(tensor, want[name]) for name, tensor in found.items())
    return len(found)


def test_recut_into_more_blocks(cut_blocks):
    old = trained(cut_blocks, poisoned=[(0, 5)])
    lower, upper = (block.state for block in old)
    fresh = cut_blocks((0, 1, 4), overlap=1, tie="elastic")
    states, notes = zip(*(carried(old, block) for block in fresh), strict=True)

    # a + b | b c d + e | e. The lower block's head is new: none was on b, and so is its probe.
    assert notes[0] == ["a carried", "b re-cloned as a guest", "head on b new", "probe of a new"]
    assert notes[1] == [
        *("b carried", "c carried", "d carried", "e re-cloned as a guest"),
        *("head on e carried", "probe of d new"),
    ]
    assert notes[2] == ["e carried", "head on e carried", "probe of e carried"]

    assert same(states[0], lower, "home/a.", "home/a.") == 2 + 2 + 3
    assert same(states[0], lower, "guest/b.", "home/b.") == 2 + 2 + 3
    for part, old_part in (("home/a.", "home/a."), ("guest/b.", "home/b.")):
        assert same(states[0], lower, f"optimizer/{part}", f"optimizer/{old_part}") == 4 * 3
    assert same(states[0], fresh[0].state(), "head/", "head/")
    assert same(states[0], fresh[0].state(), "probe/", "probe/")
    assert not any(name.startswith("optimizer/head") for name in states[0])

    # Of the old c there were two: the home is the model's, not the guest.
    assert not torch.equal(lower["guest/c.0.weight"], upper["home/c.0.weight"])
    assert same(states[1], upper, "home/c.", "home/c.") == 2
    assert same(states[1], upper, "guest/e.", "home/e.") == 2
    assert same(states[1], upper, "head/", "head/")
    assert same(states[1], upper, "optimizer/head/", "optimizer/head/")
    assert same(states[2], upper, "probe/", "probe/")
    assert lower["bad/num_bad_steps"] == 1
    assert all(state["bad/num_bad_steps"] == 0 for state in states)


def test_recut_into_one_block(cut_blocks):
    old = trained(cut_blocks)
    upper = old[1].state
    (block,) = cut_blocks((0,), overlap=0)
    state, notes = carried(old, block)
    units = [f"{unit} carried" for unit in "abcde"]
    assert notes == [*units, "head on e carried", "probe of e carried"]
    assert same(state, upper, "head/", "head/")
    assert same(state, upper, "probe/", "probe/")
    for unit, k in zip("abcde", (0, 0, 1, 1, 1), strict=True):
        assert same(state, old[k].state, f"home/{unit}.", f"home/{unit}.")
        root = f"optimizer/home/{unit}."
        assert same(state, old[k].state, root, root)


@pytest.mark.parametrize(("cuts", "overlap"), [((0, 1, 4), 1), ((0,), 0), ((0, 2), 1), ((0, 3), 2)])
@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_training_goes_on_from_its_old_loss(cut_blocks, cuts, overlap, optimizer):
    """The loss of the first steps, with heads that were carried, is below that of a new run's."""
    changes = {"tie": "elastic", "optimizer": optimizer, "depth": 0, "lr": 0.01}
    old_blocks = cut_blocks(**OLD, **changes)
    train(old_blocks, num_steps=25, lag=0)
    old = [old_block(block) for block in old_blocks]
    blocks, strangers = cut_blocks(cuts, overlap, **changes), cut_blocks(cuts, overlap, **changes)
    for block in blocks:
        block.load(carried(old, block)[0])

    losses: list[list[float]] = []
    train(
        blocks,
        num_steps=15,
        lag=0,
        after_step=lambda step: losses.append([block.loss for block in blocks]),
    )
    train(strangers, num_steps=1, lag=0)
    assert all(block.num_bad_steps == 0 for block in blocks)
    for k, stranger in enumerate(strangers):
        assert sum(step[k] for step in losses[-5:]) / 5 < stranger.loss
    assert losses[0][-1] < strangers[-1].loss  # the top's head is there from the first step


def test_same_cut_takes_all_but_the_guests_own_and_counters(cut_blocks):
    old = trained(cut_blocks)
    blocks = cut_blocks(**OLD, tie="elastic")
    for k, block in enumerate(blocks):
        state, notes = carried(old, block)
        assert not any("new" in note for note in notes)
        before = old[k].state
        assert state.keys() == before.keys()
        differ = {n.split("/")[0] for n in state if not torch.equal(state[n], before[n])}
        assert differ - {"optimizer"} == ({"guest", "bad"} if k == 0 else {"bad"})


def test_head_on_one_unit_is_taken_from_the_like_home(cut_blocks):
    """With a guest that is a whole home, the old blocks a + b c d e | b c d e both end at e."""
    old = trained(cut_blocks, cuts=(0, 1), overlap=4)
    assert old[0].top == old[1].top == "e"
    lower, upper = cut_blocks((0, 1), overlap=4)
    assert same(carried(old, lower)[0], old[0].state, "head/", "head/")
    assert same(carried(old, upper)[0], old[1].state, "head/", "head/")
    middle = cut_blocks((0, 3), overlap=2)[0]  # no home of the old run ends like this one
    assert same(carried(old, middle)[0], old[1].state, "head/", "head/")


def test_guest_that_is_not_trained_gets_no_moments(cut_blocks):
    old = trained(cut_blocks, tie="follow")
    lower, *_ = cut_blocks((0, 1, 4), overlap=1, tie="follow")
    state, notes = carry(
        old,
        lower.state(),
        home=lower.home_units,
        guest=lower.guest_units,
        trains_guest=False,
    )
    assert "b re-cloned as a guest" in notes
    assert same(state, old[0].state, "guest/b.", "home/b.") == 2 + 2 + 3
    assert not any(name.startswith("optimizer/guest/") for name in state)
    lower.load(state)


def test_head_of_another_form_is_new(cut_blocks):
    old = trained(cut_blocks)
    block = cut_blocks(depth=0, **OLD)[1]
    state, notes = carried(old, block)
    assert "head on e new" in notes
    assert same(state, block.state(), "head/", "head/")
    assert not any(name.startswith("optimizer/head") for name in state)
    block.load(state)


def test_run_has_no_optimizer_state_before_its_first_step(cut_blocks):
    old = [old_block(block) for block in cut_blocks(**OLD)]
    block = cut_blocks((0,), overlap=0)[0]
    state, _ = carried(old, block)
    assert state.keys() == block.state().keys()
    block.load(state)


def test_unit_that_the_old_run_lacks_is_refused(cut_blocks):
    old = trained(cut_blocks)
    block = cut_blocks((0,), overlap=0)[0]
    with pytest.raises(ValueError, match="no unit 'c'; resume with the model it had"):
        carried(old[:1], block)


@pytest.mark.parametrize("change", [None, torch.ones(4)])
def test_unit_of_another_shape_is_refused(cut_blocks, change):
    old = trained(cut_blocks)
    del old[0].state["home/a.1.bias"]
    if change is not None:
        old[0].state["home/a.1.bias"] = change
    form = "missing" if change is None else r"\(4,\) torch.float32"
    with pytest.raises(ValueError, match=rf"'a.1.bias' of unit 'a' is {form} in the old run"):
        carried(old, cut_blocks((0,), overlap=0)[0])


def test_old_state_is_left_as_it_is(cut_blocks):
    old = trained(cut_blocks)
    block = cut_blocks((0, 1, 4))[1]
    before = {name: tensor.clone() for name, tensor in old[1].state.items()}
    block.load(carried(old, block)[0])
    block.forward(0, (torch.rand(10, 3), torch.zeros(5, dtype=torch.int64)))
    block.update(0)
    assert all(torch.equal(old[1].state[name], tensor) for name, tensor in before.items())
