"""A linear classifier by SimCLR's published protocol (arXiv 2002.05709, appendix B.6).

SGD with Nesterov momentum 0.9 for 90 epochs in batches of 4096, at a learning rate of
0.1 x batch / 256 without warm-up, weight decay or other regularisation; from zero, and with a
cosine to zero, as in the authors' code. Two things are otherwise: the images are not augmented, for
features are computed once, and small sets get smaller batches.

Owns the fit. Knows nothing of where features come from.

Shapes: N images, B of them in a batch, F features, C classes.
"""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from models import randomness
from models.optimizers import learning_rate

MOMENTUM = 0.9
RATE_PER_256 = 0.1
LARGEST_BATCH = 4096
LEAST_STEPS = 10  # an epoch has these at least, if there are so many images


def sgd_top1(
    train_NF: np.ndarray,
    train_labels: np.ndarray,
    test_NF: np.ndarray,
    test_labels: np.ndarray,
    *,
    epochs: int,
    seed: int,
    after_epoch: Callable[[float], None] = lambda _: None,
) -> float:
    """Return top-1 of the classifier after its last epoch.

    The order of an epoch's images is a function of (seed, epoch). All labels must be known.
    `after_epoch` is given the share (0 to 1) that is done.
    """
    classes, targets = np.unique(train_labels, return_inverse=True)
    weight_CF = _fit(
        _with_bias(train_NF),
        functional.one_hot(torch.from_numpy(targets), len(classes)).float(),
        epochs=epochs,
        seed=seed,
        after_epoch=after_epoch,
    )
    predicted_N = (_with_bias(test_NF) @ weight_CF.T).argmax(dim=1).numpy()
    return float((classes[predicted_N] == test_labels).mean())


def batch_size(num_images: int) -> int:
    """The published 4096, halved until an epoch has LEAST_STEPS steps."""
    size = LARGEST_BATCH
    while size > 1 and num_images < LEAST_STEPS * size:
        size //= 2
    return size


def _with_bias(features_NF: np.ndarray) -> Tensor:
    """One column more than there are features: ones, whose weights are the bias."""
    return functional.pad(torch.from_numpy(features_NF), (0, 1), value=1.0)


def _fit(
    x_NF: Tensor,
    targets_NC: Tensor,
    *,
    epochs: int,
    seed: int,
    after_epoch: Callable[[float], None],
) -> Tensor:
    size = batch_size(len(x_NF))
    steps = len(x_NF) // size  # the last partial batch of an epoch is dropped
    weight_CF = torch.zeros(targets_NC.shape[1], x_NF.shape[1])
    velocity_CF = torch.zeros_like(weight_CF)
    for epoch in range(epochs):
        order = randomness.generator(seed, "linear classifier", step=epoch).permutation(len(x_NF))
        for step in range(steps):
            rows = torch.from_numpy(order[step * size : (step + 1) * size])
            x_BF = x_NF[rows]
            # The gradient of softmax cross entropy, in closed form.
            error_BC = (x_BF @ weight_CF.T).softmax(dim=1) - targets_NC[rows]
            gradient_CF = error_BC.T @ x_BF / size
            rate = learning_rate(
                epoch * steps + step,
                epochs * steps,
                base=RATE_PER_256 * size / 256,
                warmup_steps=0,
                schedule="cosine",
            )
            velocity_CF.mul_(MOMENTUM).add_(gradient_CF)
            weight_CF.sub_(rate * (gradient_CF + MOMENTUM * velocity_CF))
        after_epoch((epoch + 1) / epochs)
    return weight_CF
