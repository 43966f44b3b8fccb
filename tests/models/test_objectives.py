"""Local objectives, NT-Xent first of all: it has a way of looking right while it is wrong.

Shapes: B images, D features; 2BD is two views stacked.
"""

import math

import pytest
import torch
from torch.nn import functional

from models import randomness
from models.objectives import CrossEntropy, NTXent, load_objective

NO_LABELS = torch.empty(0, dtype=torch.int64)

MODULE = """
class Zero:
    uses_labels = False
    head_features = None
    def __init__(self, temperature, num_classes):
        self.given = (temperature, num_classes)
    def __call__(self, projections_2BD, labels_B):
        return projections_2BD.sum() * 0

def bare(temperature, num_classes):
    return lambda projections_2BD, labels_B: 0
"""


def draw(num_images, num_features=5, seed=0):
    rng = randomness.generator(seed, "test")
    return torch.from_numpy(rng.standard_normal((2 * num_images, num_features)))


def by_the_book(projections_2BD, temperature):
    """arXiv 2002.05709, eq. 1, term by term."""
    z = projections_2BD.tolist()
    num_images = len(z) // 2

    def similarity(i, j):
        dot = sum(a * b for a, b in zip(z[i], z[j], strict=True))
        return dot / math.hypot(*z[i]) / math.hypot(*z[j])

    total = 0.0
    for i in range(len(z)):
        partner = i + num_images if i < num_images else i - num_images
        terms = [math.exp(similarity(i, k) / temperature) for k in range(len(z)) if k != i]
        total -= math.log(math.exp(similarity(i, partner) / temperature) / sum(terms))
    return total / len(z)


@pytest.mark.parametrize("num_images", [2, 3, 8])
@pytest.mark.parametrize("temperature", [0.1, 0.5, 2.0])
def test_nt_xent_is_the_papers(num_images, temperature):
    projections = draw(num_images)
    loss = NTXent(temperature)(projections, NO_LABELS)
    assert loss.dtype == torch.float64
    assert loss.item() == pytest.approx(by_the_book(projections, temperature), rel=1e-12)


def test_nt_xent_is_not_stuck_at_ln_n():
    """Spijkervet's SimCLR, issue 30: a wrong mask held the loss at ln N, whatever was learned."""
    views = torch.eye(8, dtype=torch.float64).repeat(2, 1)  # aligned pairs, orthogonal images
    loss = NTXent(0.1)(views, NO_LABELS).item()
    assert loss == pytest.approx(math.log(1 + 14 * math.exp(-10)), rel=1e-9)
    assert loss < 0.001 * math.log(2 * 8 - 1)


def test_nt_xent_falls_when_its_gradient_is_followed():
    projections = draw(8, num_features=16).requires_grad_()
    objective = NTXent(0.5)
    first = objective(projections, NO_LABELS)
    for _ in range(50):
        (gradient,) = torch.autograd.grad(objective(projections, NO_LABELS), projections)
        projections = (projections - 5 * gradient).detach().requires_grad_()
    last = objective(projections, NO_LABELS)
    assert last < 0.5 * first < 0.5 * math.log(15) * 2
    views = functional.normalize(projections.detach())
    assert (views[:8] * views[8:]).sum(dim=1).min() > 0.9


def test_nt_xent_pairs_the_stacked_halves_and_not_neighbours():
    stacked = torch.eye(4).repeat(2, 1)
    interleaved = torch.eye(4).repeat_interleave(2, dim=0)
    objective = NTXent(0.1)
    assert objective(stacked, NO_LABELS) < 0.01
    assert objective(interleaved, NO_LABELS) > 5


def test_nt_xent_leaves_out_the_sample_itself():
    """Were the sample its own negative, aligned pairs could not get below ln 2."""
    assert NTXent(0.05)(torch.eye(4).repeat(2, 1), NO_LABELS) < 1e-6


def test_nt_xent_does_not_depend_on_order_of_batch_or_views():
    projections = draw(6)
    order = torch.tensor([4, 2, 0, 5, 1, 3])
    loss = NTXent(0.2)(projections, NO_LABELS)
    shuffled = projections[torch.cat([order, order + 6])]
    torch.testing.assert_close(NTXent(0.2)(shuffled, NO_LABELS), loss, rtol=1e-12, atol=0)
    torch.testing.assert_close(NTXent(0.2)(projections.roll(6, 0), NO_LABELS), loss)


def test_nt_xent_does_not_depend_on_lengths():
    projections = draw(4)
    lengths = torch.linspace(0.1, 50, 8, dtype=torch.float64)[:, None]
    objective = NTXent(0.2)
    torch.testing.assert_close(
        objective(projections * lengths, NO_LABELS), objective(projections, NO_LABELS)
    )


def test_temperature_only_scales_similarities():
    """If every negative is orthogonal, the loss has a closed form in 1 / temperature."""
    views = torch.eye(3, dtype=torch.float64).repeat(2, 1)
    for temperature in (0.1, 0.7, 3.0):
        expected = math.log(math.exp(1 / temperature) + 4) - 1 / temperature
        assert NTXent(temperature)(views, NO_LABELS).item() == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("temperature", [1e-3, 0.1])
def test_identical_vectors_give_ln_n_and_no_nan(temperature):
    views = torch.ones(8, 3, requires_grad=True)
    loss = NTXent(temperature)(views, NO_LABELS)
    loss.backward()
    assert loss.item() == pytest.approx(math.log(7), rel=1e-4)
    assert views.grad.isfinite().all()


def test_zero_vector_has_similarity_zero_and_gets_no_gradient():
    views = draw(3)
    views[1] = 0
    views.requires_grad_()
    loss = NTXent(0.2)(views, NO_LABELS)
    loss.backward()
    assert loss.isfinite()
    assert views.grad.isfinite().all()
    assert not views.grad[1].any()
    zeros = NTXent(0.2)(torch.zeros(6, 4), NO_LABELS)
    assert zeros.item() == pytest.approx(math.log(5))


@pytest.mark.parametrize("scale", [1e-9, 1e15])
def test_extreme_lengths_stay_finite(scale):
    views = (draw(4).float() * scale).requires_grad_()
    loss = NTXent(0.2)(views, NO_LABELS)
    loss.backward()
    assert loss.isfinite()
    assert views.grad.isfinite().all()


def test_large_batch_is_one_finite_product_and_repeats_bitwise():
    views = draw(512, num_features=32).float()
    first, second = (NTXent(0.1)(views, NO_LABELS) for _ in range(2))
    assert torch.equal(first, second)
    assert abs(first.item() - math.log(1023)) < 3


def test_gradient_is_that_of_the_loss():
    views = draw(3, num_features=4).requires_grad_()
    assert torch.autograd.gradcheck(lambda z: NTXent(0.3)(z, NO_LABELS), views)


@pytest.mark.parametrize("temperature", [0, -1.0, math.nan])
def test_temperature_must_be_above_zero(temperature):
    with pytest.raises(ValueError, match="above 0"):
        NTXent(temperature)


def test_projections_that_are_not_pairs_are_refused():
    with pytest.raises(ValueError, match="two views stacked"):
        NTXent(0.1)(torch.ones(3, 4), NO_LABELS)
    with pytest.raises(ValueError, match="no negatives"):
        NTXent(0.1)(torch.ones(2, 4), NO_LABELS)


def test_cross_entropy_uses_each_label_for_both_views():
    logits = draw(3, num_features=4)
    labels = torch.tensor([2, 0, 3])
    expected = functional.cross_entropy(logits, torch.tensor([2, 0, 3, 2, 0, 3]))
    torch.testing.assert_close(CrossEntropy(4)(logits, labels), expected)


def test_cross_entropy_leaves_out_what_has_no_label():
    logits = draw(3, num_features=4).requires_grad_()
    loss = CrossEntropy(4)(logits, torch.tensor([2, -1, 3]))
    expected = functional.cross_entropy(logits[[0, 2, 3, 5]], torch.tensor([2, 3, 2, 3]))
    torch.testing.assert_close(loss, expected)
    nothing = CrossEntropy(4)(logits, torch.tensor([-1, -1, -1]))
    nothing.backward()
    assert nothing.item() == 0
    assert not logits.grad.any()


def test_cross_entropy_says_which_head_it_needs():
    assert CrossEntropy(7).head_features == 7
    assert NTXent(0.1).head_features is None
    with pytest.raises(ValueError, match="one feature a class"):
        CrossEntropy(7)(torch.ones(4, 5), torch.zeros(2, dtype=torch.int64))
    with pytest.raises(ValueError, match="one label an image"):
        CrossEntropy(5)(torch.ones(4, 5), torch.zeros(4, dtype=torch.int64))


def test_objective_is_found_by_its_name(tmp_path, monkeypatch):
    (tmp_path / "own_objectives.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    given = {"temperature": 0.3, "num_classes": 4}
    nt_xent = load_objective("nt-xent", **given)
    assert isinstance(nt_xent, NTXent)
    assert (nt_xent.temperature, nt_xent.uses_labels) == (0.3, False)
    cross_entropy = load_objective("cross-entropy", **given)
    assert (cross_entropy.head_features, cross_entropy.uses_labels) == (4, True)
    assert load_objective("own_objectives:Zero", **given).given == (0.3, 4)
    with pytest.raises(ValueError, match="uses_labels and head_features"):
        load_objective("own_objectives:bare", **given)
    with pytest.raises(ValueError, match="did you mean 'nt-xent'"):
        load_objective("ntxent", **given)


@pytest.mark.parametrize(
    ("attribute", "said"),
    [
        ("head_features = '8'", "has head_features '8'; give the width"),
        ("head_features = 8.5", "has head_features 8.5; give"),
        ("head_features = True", "has head_features True; give"),
        ("head_features = 0", "has head_features 0; give"),
        ("needs = None", "has needs None; give a tuple of block_input, home_output, block_index"),
        ("needs = 5", "has needs 5; give a tuple"),
        ("needs = 'block_index'", "has needs 'block_index'; give a tuple"),
        ("needs = ('bogus',)", r"has needs \('bogus',\); give a tuple"),
    ],
)
def test_attribute_that_makes_no_sense_is_refused(tmp_path, attribute, said):
    """A TypeError of torch's, or a name of one letter."""
    file = tmp_path / "own.py"
    file.write_text(
        "class Odd:\n"
        "    uses_labels, head_features = False, None\n"
        f"    {attribute}\n"
        "    def __call__(self, projections_2BD, labels_B): return projections_2BD.sum()\n"
        "def odd(temperature, num_classes): return Odd()\n"
        "def odd_class(temperature, num_classes): return Odd\n"
    )
    given = {"temperature": 0.3, "num_classes": 4}
    with pytest.raises(ValueError, match=f"objective '{file}:odd' {said}"):
        load_objective(f"{file}:odd", **given)
    with pytest.raises(ValueError, match=r"gave the class Odd itself; return Odd\(\.\.\.\)"):
        load_objective(f"{file}:odd_class", **given)
