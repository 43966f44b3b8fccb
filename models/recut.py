"""Another cut: makes the state of a new block from the blocks of an old run.

Owns which tensors go where. Knows states as named tensors alone (models.block.LocalBlock.state),
and nothing of files or of how a run is cut.

A tensor of a unit bears the plain network's name, so that all old homes together are the whole
network, whatever the cut.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

State = Mapping[str, Tensor]
Units = Mapping[str, Sequence[str]]


@dataclass(frozen=True, kw_only=True)
class OldBlock:
    """A block of the old run: the names of its units, lowest first, and its state."""

    home: tuple[str, ...]
    guest: tuple[str, ...]
    state: State

    @property
    def top(self) -> str:
        """The unit below its head."""
        return (*self.home, *self.guest)[-1]


def carry(
    old: Sequence[OldBlock], fresh: State, *, home: Units, guest: Units, trains_guest: bool = True
) -> tuple[dict[str, Tensor], list[str]]:
    """Return a new block's state, to be loaded, and what was done, in short phrases.

    `fresh` is the new block's own state, `home` and `guest` its units with their tensors' names
    (LocalBlock.home_units, guest_units). Home units come with their buffers and optimizer state;
    guests are cloned from the old homes, with that state if they are trained. The head is that of
    an old block with the same top unit, the probe that of one whose home ends alike, if names and
    shapes fit; whatever else there is starts fresh. The tensors returned are not copies. ValueError
    if the old run has no such unit, or has it in another shape.
    """
    state = dict(fresh)
    notes = []
    for part, units, verb in (("home", home, "carried"), ("guest", guest, "re-cloned as a guest")):
        for unit, names in units.items():
            source = next((block.state for block in old if unit in block.home), None)
            if source is None:
                raise ValueError(f"the old run has no unit {unit!r}; resume with the model it had")
            state |= _unit(source, fresh, unit, names, part, moments=part == "home" or trains_guest)
            notes.append(f"{unit} {verb}")

    last, top = list(home)[-1], [*home, *guest][-1]
    # If the overlap is a whole home, two old blocks have one top: the like one, else the upper.
    heads = sorted((b for b in old if b.top == top), key=lambda block: block.home[-1] == last)
    probes = [block for block in old if block.home[-1] == last]
    for part, owners, what in (
        ("head", heads, f"head on {top}"),
        ("probe", probes, f"probe of {last}"),
    ):
        fitting = [block.state for block in owners if _fits(block.state, fresh, f"{part}/")]
        if fitting:
            state |= _beginning(fitting[-1], f"{part}/")
            state |= _beginning(fitting[-1], f"optimizer/{part}/")
        notes.append(f"{what} {'carried' if fitting else 'new'}")
    return state, notes


def _unit(
    source: State, fresh: State, unit: str, names: Sequence[str], part: str, *, moments: bool
) -> dict[str, Tensor]:
    """The tensors of an old home's unit and, with `moments`, their optimizer state, named for
    `part`."""
    found = {}
    for name in names:
        old, new = source.get(f"home/{name}"), fresh[f"{part}/{name}"]
        if old is None or not _alike(old, new):
            form = "missing" if old is None else f"{tuple(old.shape)} {old.dtype}"
            raise ValueError(
                f"{name!r} of unit {unit!r} is {form} in the old run and {tuple(new.shape)}"
                f" {new.dtype} in this one; resume with the model it had"
            )
        found[f"{part}/{name}"] = old
        root = f"optimizer/home/{name}/"
        for key, tensor in _beginning(source, root).items() if moments else ():
            found[f"optimizer/{part}/{name}/{key.removeprefix(root)}"] = tensor
    return found


def _fits(old: State, fresh: State, root: str) -> bool:
    mine, theirs = _beginning(fresh, root), _beginning(old, root)
    return mine.keys() == theirs.keys() and all(_alike(theirs[n], t) for n, t in mine.items())


def _alike(old: Tensor, new: Tensor) -> bool:
    return old.shape == new.shape and old.dtype == new.dtype


def _beginning(state: State, root: str) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in state.items() if name.startswith(root)}
