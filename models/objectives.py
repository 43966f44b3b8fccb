"""Local objectives: what one block minimises.

Owns the losses and their names. Knows nothing of blocks or of where projections come from.

Shapes: B images a batch, D features of a projection; 2BD is two views stacked, the first views
of all B images and then their second views.
"""

from collections.abc import Iterable
from numbers import Integral
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor
from torch.nn import functional

from models.plugins import call_function, is_dotted, unknown_name

Projections = Tensor | tuple[Tensor, ...]
NEEDS = ("block_input", "home_output", "block_index")


@runtime_checkable
class Objective(Protocol):
    """A scalar loss of the projections of both views.

    `uses_labels` tells whether labels reach the loss, `head_features` the width that the head
    must have (None: free). A label of -1 means unlabelled. An objective may also have `needs`,
    names of what else it is given, by keyword: `block_input` (N, ...), without a gradient;
    `home_output` (N, ...), which the gradient flows into; `block_index`, counted from 0. A user's
    head may return a tuple of tensors, which then takes the place of the projections.
    """

    uses_labels: bool
    head_features: int | None

    def __call__(self, projections_2BD: Any, labels_B: Tensor, **needed: Any) -> Tensor: ...


def needs_of(objective: Objective) -> tuple[str, ...]:
    """What an objective needs beside projections and labels."""
    needs: Iterable[str] = getattr(objective, "needs", ())
    return tuple(needs)


class NTXent:
    """Normalised-temperature cross entropy: tell an image's other view from 2B - 2 negatives.

    arXiv 2002.05709, eq. 1. A zero vector has similarity 0 to everything and gets no gradient.
    """

    uses_labels = False
    head_features: int | None = None

    def __init__(self, temperature: float) -> None:
        if not temperature > 0:
            raise ValueError(f"temperature {temperature}; it must be above 0, such as 0.2")
        self.temperature = temperature

    def __call__(self, projections_2BD: Tensor, labels_B: Tensor, **_: Any) -> Tensor:  # noqa: ARG002
        num_images = _num_images(projections_2BD)
        if num_images < 2:
            raise ValueError("a batch of 1 image has no negatives; give a batch of at least 2")
        z_2BD = _unit_vectors(projections_2BD)
        logits = z_2BD @ z_2BD.T / self.temperature
        positives = torch.cat([logits.diagonal(num_images), logits.diagonal(-num_images)])
        itself = torch.eye(len(logits), dtype=torch.bool, device=logits.device)
        return (logits.masked_fill(itself, -torch.inf).logsumexp(dim=1) - positives).mean()


class CrossEntropy:
    """Supervised cross entropy of each view, as in decoupled greedy learning (arXiv 1901.08164).

    Unlabelled images are left out of the mean; a batch without labels has loss 0.
    """

    uses_labels = True

    def __init__(self, num_classes: int) -> None:
        if num_classes < 2:
            raise ValueError(f"cross-entropy over {num_classes} classes; it needs at least 2")
        self.head_features: int | None = num_classes

    def __call__(self, projections_2BD: Tensor, labels_B: Tensor, **_: Any) -> Tensor:
        num_images = _num_images(projections_2BD)
        if projections_2BD.shape[1] != self.head_features:
            raise ValueError(
                f"head of {projections_2BD.shape[1]} features for {self.head_features} classes; "
                "give it one feature a class"
            )
        if len(labels_B) != num_images:
            raise ValueError(
                f"{len(labels_B)} labels for {len(projections_2BD)} projections; give one label "
                "an image, not one a view"
            )
        targets = labels_B.repeat(2)
        total = functional.cross_entropy(projections_2BD, targets, ignore_index=-1, reduction="sum")
        return total / (targets >= 0).sum().clamp(min=1)


NAMES = ("nt-xent", "cross-entropy")


def load_objective(name: str, *, temperature: float, num_classes: int) -> Objective:
    """Make the objective of a name.

    A dotted name, package.module:factory, is called with both keywords. Raises ValueError for an
    unknown name, or for a factory whose result is no Objective.
    """
    if name == "nt-xent":
        return NTXent(temperature)
    if name == "cross-entropy":
        return CrossEntropy(num_classes)
    if not is_dotted(name):
        raise unknown_name(name, "objective", NAMES)

    objective = call_function(name, "objective", temperature=temperature, num_classes=num_classes)
    if isinstance(objective, type):
        kind = objective.__name__
        raise ValueError(f"objective {name!r} gave the class {kind} itself; return {kind}(...)")
    if not isinstance(objective, Objective):
        kind = type(objective).__name__
        raise ValueError(
            f"objective {name!r} made a {kind}; it must be callable and have the attributes "
            "uses_labels and head_features"
        )
    _check_attributes(objective, f"objective {name!r}")
    return objective


def _check_attributes(objective: Objective, who: str) -> None:
    width: object = objective.head_features
    is_width = isinstance(width, Integral) and not isinstance(width, bool) and int(width) >= 1
    if width is not None and not is_width:
        raise ValueError(
            f"{who} has head_features {width!r}; give the width that its head must have, a whole"
            " number of at least 1, or None"
        )
    needs: Any = getattr(objective, "needs", ())
    are_names = isinstance(needs, tuple | list | set | frozenset)
    if not are_names or any(need not in NEEDS for need in needs):
        raise ValueError(f"{who} has needs {needs!r}; give a tuple of {', '.join(NEEDS)}")


def _num_images(projections_2BD: Projections) -> int:
    if isinstance(projections_2BD, tuple):
        raise ValueError(
            f"a head gave a tuple of {len(projections_2BD)}, and this loss takes one tensor (2B,"
            " D); return that, or give an --objective of your own"
        )
    if projections_2BD.ndim != 2 or len(projections_2BD) % 2:
        raise ValueError(
            f"projections of shape {tuple(projections_2BD.shape)}; give (2B, D), two views stacked"
        )
    return len(projections_2BD) // 2


def _unit_vectors(x_ND: Tensor) -> Tensor:
    norms: Tensor = torch.linalg.vector_norm(x_ND, dim=1, keepdim=True)
    # Multiplying by the mask, rather than only clamping, keeps a zero vector's gradient at zero
    # although 1 / eps would blow it up.
    z_ND: Tensor = x_ND / norms.clamp_min(1e-12) * (norms > 1e-12)
    return z_ND
