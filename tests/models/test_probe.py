"""The online linear probe reads features and touches nothing."""

import pytest
import torch

from models.probe import LinearProbe


def blobs(step, num=64):
    generator = torch.Generator().manual_seed(step)
    labels_N = torch.randint(3, (num,), generator=generator)
    noise_NF = torch.randn(num, 6, generator=generator)
    return 3 * torch.eye(6)[labels_N] + noise_NF, labels_N


def test_probe_learns_and_its_average_follows():
    probe = LinearProbe(6, 3)
    assert probe.top1 is None
    first = probe.observe(*blobs(0))
    assert probe.top1 == first
    for step in range(1, 60):
        last = probe.observe(*blobs(step))
    assert first < 0.6
    assert last > 0.9
    assert probe.top1 == pytest.approx(last, abs=0.05)


def test_probe_measures_a_batch_before_it_learns_from_it():
    """Else a probe would report how well it memorises: random labels would look learnable."""
    probe = LinearProbe(500, 2, lr=0.1)
    generator = torch.Generator().manual_seed(0)
    for _ in range(60):
        features_NF = torch.randn(64, 500, generator=generator)
        probe.observe(features_NF, torch.randint(2, (64,), generator=generator))
    assert probe.top1 == pytest.approx(0.5, abs=0.08)


def test_no_gradient_reaches_the_features():
    features_NF, labels_N = blobs(0)
    features_NF.requires_grad_()
    probe = LinearProbe(6, 3)
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(saved.append, lambda tensor: tensor):
        probe.observe(features_NF, labels_N)
    assert not saved  # nothing was recorded, so no graph of the block stays in memory either
    assert features_NF.grad is None
    assert not any(tensor.requires_grad for tensor in probe.state().values())


def test_probe_gradient_is_that_of_cross_entropy():
    features_NF, labels_N = blobs(0)
    probe = LinearProbe(6, 3, lr=0.5)
    probe.observe(features_NF, labels_N)
    before = probe.state()["weight"].requires_grad_()
    x_NF = torch.nn.functional.layer_norm(features_NF, (6,))
    scores_NK = x_NF @ before[:, :6].T + before[:, 6]
    torch.nn.functional.cross_entropy(scores_NK, labels_N).backward()
    momentum = probe.state()["exp_avg"]
    probe.observe(features_NF, labels_N)
    torch.testing.assert_close(
        probe.state()["exp_avg"], 0.9 * momentum + 0.1 * before.grad, rtol=1e-5, atol=1e-7
    )


def test_probe_state_is_all_of_it():
    probe = LinearProbe(6, 3)
    fresh = LinearProbe(6, 3)
    fresh.load(probe.state())
    for step in range(3):
        probe.observe(*blobs(step))
    copy = LinearProbe(6, 3)
    copy.load(probe.state())
    assert copy.top1 == probe.top1
    state = probe.state()
    for step in range(3, 6):
        assert copy.observe(*blobs(step)) == probe.observe(*blobs(step))
    assert copy.state().keys() == fresh.state().keys() == state.keys()
    for name, tensor in probe.state().items():
        assert torch.equal(copy.state()[name], tensor)
        assert name == "top1" or not torch.equal(state[name], tensor)  # a copy, not a window


def test_unlabelled_samples_do_not_count():
    features_NF, labels_N = blobs(0)
    half = labels_N.clone()
    half[::2] = -1
    some, only = LinearProbe(6, 3), LinearProbe(6, 3)
    assert some.observe(features_NF, half) == only.observe(features_NF[1::2], labels_N[1::2])
    assert torch.equal(some.state()["weight"], only.state()["weight"])


@pytest.mark.parametrize(
    ("features_NF", "labels_N"),
    [
        (torch.ones(2, 6), torch.tensor([-1, -1])),
        (torch.full((2, 6), torch.nan), torch.tensor([0, 1])),
    ],
)
def test_batch_without_labels_leaves_the_probe_as_it_is(features_NF, labels_N):
    probe = LinearProbe(6, 3)
    probe.observe(*blobs(0))
    before = probe.state()
    assert probe.observe(features_NF, labels_N) is None
    assert all(torch.equal(probe.state()[name], tensor) for name, tensor in before.items())


def test_state_of_another_probe_is_refused():
    with pytest.raises(ValueError, match="features and classes"):
        LinearProbe(6, 3).load(LinearProbe(5, 3).state())
