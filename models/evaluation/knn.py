"""Weighted k-nearest-neighbour classification (arXiv 1805.01978, section 3.4).

Owns the vote. Knows nothing of where features come from.

Shapes: N images, Q of them asked at once, F features, k neighbours, C classes.
"""

from collections.abc import Callable

import numpy as np
import torch
from torch.nn import functional

SLICE = 256  # images that are asked at once: what they need grows with the bank


def num_neighbours(k: int, num_train: int) -> int:
    """So many vote if k are asked for: all, if there are fewer."""
    return min(k, num_train)


def knn_top1(
    train_NF: np.ndarray,
    train_labels: np.ndarray,
    test_NF: np.ndarray,
    test_labels: np.ndarray,
    *,
    k: int,
    temperature: float,
    after_slice: Callable[[float], None] = lambda _: None,
) -> float:
    """Return top-1 if each test image gets the class for which its k nearest training images vote
    (`num_neighbours`).

    The nearest are those of the highest cosine, of which each votes with exp(cosine / temperature).
    All labels must be known. `after_slice` is given the share (0 to 1) that is done.
    """
    bank_NF = functional.normalize(torch.from_numpy(train_NF))
    classes_N = torch.from_numpy(train_labels)
    num_classes = int(classes_N.max()) + 1
    k = num_neighbours(k, len(bank_NF))
    num_correct = num_asked = 0
    for queries_QF, labels_Q in zip(
        torch.split(functional.normalize(torch.from_numpy(test_NF)), SLICE),
        torch.split(torch.from_numpy(test_labels), SLICE),
        strict=True,
    ):
        cosines_Qk, nearest_Qk = (queries_QF @ bank_NF.T).topk(k)
        # As shares of the nearest one's weight, which no temperature makes infinite.
        weights_Qk = ((cosines_Qk - cosines_Qk[:, :1]) / temperature).exp()
        votes_QC = torch.zeros(len(queries_QF), num_classes)
        votes_QC.scatter_add_(1, classes_N[nearest_Qk], weights_Qk)
        num_correct += int((votes_QC.argmax(dim=1) == labels_Q).sum())
        num_asked += len(labels_Q)
        after_slice(num_asked / len(test_labels))
    return num_correct / len(test_labels)
