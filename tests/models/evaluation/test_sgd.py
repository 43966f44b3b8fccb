"""The linear classifier by SGD is SimCLR's, and a function of its arguments."""

import numpy as np
import pytest
import torch

from models import randomness
from models.evaluation import sgd
from models.evaluation.sgd import batch_size, sgd_top1

from .conftest import separable


def ten_classes(num: int, step: int) -> tuple[np.ndarray, np.ndarray]:
    """Ten classes that a line tells apart, in features that are no better than they must be."""
    rng = randomness.generator(0, "test", step=step)
    centres_CF = randomness.generator(0, "centres").standard_normal((10, 16))
    labels = rng.integers(10, size=num)
    noise_NF = 0.3 * rng.standard_normal((num, 16))
    return (centres_CF[labels] + noise_NF).astype(np.float32), labels


def fitted(x_NF, labels, *, seed=0, epochs=9) -> torch.Tensor:
    targets_NC = torch.nn.functional.one_hot(torch.from_numpy(labels)).float()
    x_NF = sgd._with_bias(x_NF)
    return sgd._fit(x_NF, targets_NC, epochs=epochs, seed=seed, after_epoch=lambda share: None)


def test_separable_classes_are_told_apart():
    split = (*ten_classes(1000, 0), *ten_classes(300, 1))
    assert sgd_top1(*split, epochs=90, seed=0) > 0.95


def test_features_that_tell_nothing_are_at_chance():
    (train_NF, train_labels), (test_NF, test_labels) = separable(600, 0), separable(600, 1)
    blind = sgd_top1(train_NF[:, 1:], train_labels, test_NF[:, 1:], test_labels, epochs=9, seed=0)
    assert blind == pytest.approx(0.5, abs=0.08)


def test_same_arguments_give_the_same_bits():
    split = ten_classes(200, 0)
    assert torch.equal(fitted(*split), fitted(*split))
    assert not torch.equal(fitted(*split), fitted(*split, seed=1))


def test_threads_move_nothing_that_counts():
    split = (*ten_classes(400, 0), *ten_classes(300, 1))
    found, before = [], torch.get_num_threads()
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            found.append((fitted(*split[:2], epochs=2), sgd_top1(*split, epochs=2, seed=0)))
    finally:
        torch.set_num_threads(before)
    torch.testing.assert_close(found[0][0], found[1][0], rtol=1e-3, atol=1e-4)
    assert found[0][1] == found[1][1]


def test_step_is_that_of_torchs_sgd_under_a_cosine():
    """By autograd, torch's optimizer and its scheduler."""
    x_NF, labels = ten_classes(64, 0)
    size, epochs = batch_size(64), 3
    steps = 64 // size
    linear = torch.nn.Linear(16, 10)
    torch.nn.init.zeros_(linear.weight)
    torch.nn.init.zeros_(linear.bias)
    optimizer = torch.optim.SGD(
        linear.parameters(), lr=0.1 * size / 256, momentum=0.9, nesterov=True
    )
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs * steps)
    for epoch in range(epochs):
        order = randomness.generator(5, "linear classifier", step=epoch).permutation(64)
        for step in range(steps):
            rows = order[step * size : (step + 1) * size]
            logits = linear(torch.from_numpy(x_NF[rows]))
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(logits, torch.from_numpy(labels[rows])).backward()
            optimizer.step()
            cosine.step()
    weight_CF = fitted(x_NF, labels, seed=5, epochs=epochs)
    torch.testing.assert_close(weight_CF[:, :-1], linear.weight.detach(), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(weight_CF[:, -1], linear.bias.detach(), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("num_images", "size"),
    [(1_281_167, 4096), (50_000, 4096), (40_959, 2048), (1437, 128), (12, 1), (1, 1)],
)
def test_small_sets_get_smaller_batches(num_images, size):
    assert batch_size(num_images) == size


def test_classes_may_have_any_numbers():
    (train_NF, train_labels), (test_NF, test_labels) = separable(100, 0), separable(100, 1)
    names = np.array([3, 8])
    split = train_NF, names[train_labels], test_NF, names[test_labels]
    assert sgd_top1(*split, epochs=20, seed=0) > 0.98


def test_each_epoch_tells_what_share_is_done():
    shares: list[float] = []
    split = (*separable(50, 0), *separable(50, 1))
    sgd_top1(*split, epochs=4, seed=0, after_epoch=shares.append)
    assert shares == [0.25, 0.5, 0.75, 1.0]
