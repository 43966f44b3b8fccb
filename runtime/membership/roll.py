"""Who of a job's ranks is there: rank 0's view of all cards, and another rank's of the board.

Owns the rules: when a rank counts as lost, when a job can't go on, and what is told. Pure: it is
told what was read in the store, and when.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from runtime.membership.cards import Board, Card

ANEW_S = 5.0  # without a word of a keeper, before another one is taken to be in its place
ABSENCE_S = 15.0  # between two looks: this process was stopped meanwhile, and nobody is blamed


class _Watch:
    """A clock that skips the times in which this process was stopped."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self._looked_s: float | None = None

    def advance(self, now_s: float) -> None:
        """Go on to a time of the real clock."""
        since_s = 0.0 if self._looked_s is None else now_s - self._looked_s
        self.now_s += since_s if since_s <= ABSENCE_S else 0.0
        self._looked_s = now_s


@dataclass(frozen=True, kw_only=True)
class Count:
    """What rank 0 says on its board, which ranks have not come yet, and what the user is told."""

    board: Board
    missing: tuple[int, ...]
    troubles: tuple[str, ...]


class Roll:
    """Rank 0's view of a job of `num_ranks`; a rank is lost if its card does not change for
    `timeout_s`."""

    def __init__(self, nonce: str, num_ranks: int, *, timeout_s: float) -> None:
        self._nonce = nonce
        self._timeout_s = timeout_s
        self._watch = _Watch()
        self._cards: list[Card | None] = [None] * num_ranks
        self._changed_s = [0.0] * num_ranks
        self._others: dict[int, Card] = {}  # in the place of one that has joined
        self._read_s = 0.0
        self._stop, self._stop_by = 0, ""
        self._over = ""
        self._num_told: dict[str, int] = {}  # of each keeper's troubles, by its nonce

    def take(
        self, cards: Sequence[Card | None] | None, now_s: float, *, joined: Sequence[str]
    ) -> None:
        """Take all ranks' cards as they lie in the store; None if that can't be read. `joined` are
        the nonces, by rank, of the keepers whose workers have taken up the run; "" for a rank's
        that has not. A card of an attempt before this one, or of another job, is left out."""
        self._watch.advance(now_s)
        if cards is None:
            return
        self._read_s = self._watch.now_s
        for rank, card in enumerate(cards):
            if card is None or card.heard != self._nonce:
                continue
            if joined[rank] not in ("", card.nonce):
                self._others[rank] = card
            elif self._is_news(rank, card):
                self._cards[rank] = card
                self._changed_s[rank] = self._watch.now_s

    def _is_news(self, rank: int, card: Card) -> bool:
        """Whether it is not one that has been read before, written again by a stranger."""
        before = self._cards[rank]
        return before is None or card.nonce != before.nonce or card.beat > before.beat

    def count(self, *, has_left: bool) -> Count:
        """Say how things stand."""
        here = {rank: card for rank, card in enumerate(self._cards) if card is not None}
        for rank, card in here.items():
            self._over = self._over or self._why_over(rank, card)
            if card.stop and not self._stop:
                self._stop, self._stop_by = card.stop, name_of(rank, card.host)
        self._over = self._over or self._why_lost(here)
        troubles = [trouble for card in here.values() for trouble in self._untold(card)]
        board = Board(
            nonces=tuple("" if card is None else card.nonce for card in self._cards),
            stop=self._stop,
            stop_by=self._stop_by,
            over=self._over,
            has_left=has_left,
        )
        missing = tuple(rank for rank, card in enumerate(self._cards) if card is None)
        return Count(board=board, missing=missing, troubles=tuple(troubles))

    def _untold(self, card: Card) -> Sequence[str]:
        """The troubles that are new since the last time, as far as the card still has them."""
        num_told = self._num_told.get(card.nonce, 0)
        self._num_told[card.nonce] = card.num_troubles
        num_new = min(card.num_troubles - num_told, len(card.troubles))
        return card.troubles[len(card.troubles) - num_new :]

    def _why_over(self, rank: int, card: Card) -> str:
        who = name_of(rank, card.host)
        if card.presence == "failed":
            return f"{who} has ended: {card.why}"
        silent_s = self._watch.now_s - self._changed_s[rank]
        if card.presence == "here" and rank in self._others and silent_s > ANEW_S:
            return f"{who} was started anew, so all ranks have to be"
        return ""

    def _why_lost(self, here: Mapping[int, Card]) -> str:
        now_s = self._watch.now_s
        if now_s - self._read_s > self._timeout_s:
            return f"the job's store was not reached for {now_s - self._read_s:.0f} s"
        if self._read_s < now_s:
            return ""
        silent_s = {
            name_of(rank, card.host): now_s - self._changed_s[rank]
            for rank, card in here.items()
            if card.presence == "here"
        }
        if not silent_s or max(silent_s.values()) <= self._timeout_s:
            return ""
        # With a host all of its ranks fall silent, within a beat.
        lost = [who for who, since_s in silent_s.items() if since_s > self._timeout_s / 2]
        return f"nothing was heard of {', '.join(lost)} for {max(silent_s.values()):.0f} s"

    @property
    def have_left(self) -> bool:
        """Whether all other ranks have left, of those that came; if the job can't go on, those that
        still come are to hear it."""
        return all(
            not self._over if card is None else card.presence != "here" for card in self._cards[1:]
        )


class Follower:
    """Another rank's view of rank 0's board; rank 0 is lost if that does not change for
    `timeout_s`."""

    def __init__(self, nonce: str, rank: int, *, timeout_s: float) -> None:
        self._nonce = nonce
        self._rank = rank
        self._timeout_s = timeout_s
        self._watch = _Watch()
        self.board: Board | None = None
        """The latest one that was for this rank."""
        self._changed_s = 0.0

    def take(self, board: Board | None, now_s: float) -> str:
        """Take what lies in the store; None if it can't be read, or holds none. Returns why the job
        can't go on; "" if it can."""
        self._watch.advance(now_s)
        before = self.board
        silent_s = self._watch.now_s - self._changed_s
        is_another = (
            board is not None and before is not None and board.nonces[0] != before.nonces[0]
        )
        if is_another and silent_s > ANEW_S:
            return "rank 0 was started anew, so all ranks have to be"
        is_news = board is not None and (before is None or board.beat > before.beat)
        if board is not None and is_news and not is_another and self._is_listed(board):
            self.board, self._changed_s = board, self._watch.now_s
        if self.board is None or self.board.has_left:
            return ""
        silent_s = self._watch.now_s - self._changed_s
        if silent_s > self._timeout_s:
            return f"nothing was heard of rank 0 for {silent_s:.0f} s"
        return self.board.over

    def _is_listed(self, board: Board) -> bool:
        return self._rank < len(board.nonces) and board.nonces[self._rank] == self._nonce


def name_of(rank: int, host: str) -> str:
    """A rank, for messages."""
    return f"rank {rank} (host {host})" if host else f"rank {rank}"
