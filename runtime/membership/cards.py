"""What the ranks of a job say of themselves in the store: a card each, and rank 0's board.

Owns the words and their text. Who writes them, and what follows, is runtime.membership.registrar's.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

# A file that rank 0 has written to the checkpoint directory, for others to find.
PLACE_MARK = ".run"
Presence = Literal["here", "left", "failed"]


@dataclass(frozen=True, kw_only=True)
class Card:
    """What a rank says of itself.

    `nonce` is its keeper's; `heard` the one of rank 0's keeper that it knows of: a card of an
    earlier attempt has another. `launcher`, if known, is equal for all attempts of its launcher.
    `host` names it in messages, `facts` describe its machine, as the program wants it. `beat`
    counts up while it is there. `stop` is the signal by which it wants the job to stop, `why` how
    it failed. `troubles` are the latest things that it could not do, the newest at last;
    `num_troubles` counts them up, from any number. `seen` is the run whose places it has looked
    for, and `unseen` why it does not see them.
    """

    nonce: str
    heard: str = ""
    launcher: str = ""
    host: str = ""
    facts: Mapping[str, Any] = field(default_factory=dict)
    beat: int = 0
    presence: Presence = "here"
    why: str = ""
    stop: int = 0
    troubles: tuple[str, ...] = ()
    num_troubles: int = 0
    seen: str = ""
    unseen: str = ""

    def to_text(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_text(cls, text: str) -> "Card":
        fields = json.loads(text)
        return cls(**fields | {"troubles": tuple(fields["troubles"])})


@dataclass(frozen=True, kw_only=True)
class Places:
    """Where rank 0 wants a run's checkpoints to be: every rank is to look whether PLACE_MARK is
    there, with the run's id in it."""

    run_id: str
    checkpoint_dir: str

    def to_text(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_text(cls, text: str) -> "Places":
        return cls(**json.loads(text))


@dataclass(frozen=True, kw_only=True)
class Board:
    """What rank 0 says to the keepers with these `nonces` (by rank; "" is one that has not come).

    `stop` is the signal by which the rank `stop_by` wants the job to stop. `over` tells why the job
    can't go on, and `has_left` that rank 0 has ended on purpose: its silence is no loss.
    """

    nonces: tuple[str, ...]
    beat: int = 0
    stop: int = 0
    stop_by: str = ""
    over: str = ""
    has_left: bool = False

    def to_text(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_text(cls, text: str) -> "Board":
        fields = json.loads(text)
        return cls(**fields | {"nonces": tuple(fields["nonces"])})
