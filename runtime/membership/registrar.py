"""The registrar: a rank's process that speaks to the store for as long as its keeper lives.

Owns this rank's card, on rank 0 the board, and the store itself if the launcher does not host it.
It tells its keeper, which imports no torch, what other ranks say; in a run no loop but this one
waits for the store. If a registrar dies, its successor writes card and board again with its first
beat; what else was said is said again by whoever waits (Rendezvous.repeat).
"""

import logging
import os
import socket
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from multiprocessing.connection import Connection
from typing import Any

import msgpack
from torch.distributed import Store

from runtime.lifetime import die_with_parent
from runtime.membership.cards import PLACE_MARK, Board, Card, Places
from runtime.membership.roll import Count, Follower, Roll, name_of
from runtime.program import (
    DONE,
    FINAL,
    TRACEBACK_CHARACTERS,
    Facts,
    Meeting,
    Member,
    Program,
    Start,
    StoreAddress,
)
from runtime.rendezvous import Announcement, Rendezvous, open_rendezvous
from runtime.signals import relay_to
from runtime.state.storage import open_storage, read
from runtime.store import StoreAway, host_store

log = logging.getLogger(__name__)

BEAT_S = 1.0
FIRST_BEAT_S = 0.05  # until the job is announced
FIRST_NOTICE_S = 10.0  # of who has not come or is not reached; the next after twice as long
MOST_TROUBLES = 8  # on a card: the latest
LEAVE_S = 10.0  # for others to hear that the job is over, if they need the store that is here
UNKNOWN_LEAVES_S = 3.0  # for the store to be reached at last, of a rank that none has heard of
PORT_S = 8.0  # for the one before to give the store's port back

Say = Callable[..., None]


def run_registrar(program: Program, meeting: Meeting, start: Start, keeper: Connection) -> None:
    """The body of the registrar's process."""
    assert meeting.member is not None, "without a launcher there are no other ranks"
    die_with_parent()
    relay_to(meeting.keeper_pid)
    _be_silent()

    def say(**facts: object) -> None:
        keeper.send_bytes(msgpack.packb(facts))

    try:
        say(phase="reaching the job's store")
        store = _host(meeting.store, meeting.member)
        rendezvous = open_rendezvous(meeting, timeout_s=program.patience_s, known=start.known)
        registrar = Registrar(
            rendezvous,
            meeting.member,
            nonce=meeting.nonce,
            timeout_s=program.rank_timeout_s,
            facts=program.facts(),
            look=partial(why_unseen, program.checkpoint_dir),
            say=say,
        )
        while not registrar.turn(time.monotonic()):
            registrar.take_orders(keeper)
        del store  # until now others could read it
        say(end=DONE)
    except NotHosted as error:
        say(end=FINAL, traceback=str(error))
        sys.exit(1)
    except Exception:
        say(traceback=traceback.format_exc()[-TRACEBACK_CHARACTERS:])
        sys.exit(1)


class NotHosted(Exception):
    """The store's address can't be had."""


def why_unseen(own: str | None, places: Places) -> str:
    """Why this rank does not see rank 0's mark; "" if it does. It looks in `own`, its own
    --checkpoint-dir, if it was given one."""
    storage = open_storage(own or places.checkpoint_dir)
    try:
        is_same = storage.exists(PLACE_MARK) and read(storage, PLACE_MARK) == places.run_id.encode()
        return "" if is_same else f"{storage.locate()} is not the same there"
    except (OSError, ValueError) as error:
        return str(error)


def _be_silent() -> None:
    """What torch's sockets have to say of a network that fails is no news to the user."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    os.close(nowhere)


def _host(address: StoreAddress, member: Member) -> Store | None:
    """Host the store, if it is for this rank to do. Raises NotHosted."""
    if address.is_launchers or member.rank:
        return None
    until_s = time.monotonic() + PORT_S
    while True:
        try:
            return host_store(address)
        except OSError as error:
            if time.monotonic() > until_s:
                raise NotHosted(
                    f"the job's store can't be hosted at MASTER_ADDR {address.host}, MASTER_PORT"
                    f" {address.port} ({error.strerror}); rank 0 must run on that host, and the"
                    " port be free"
                ) from error
            time.sleep(BEAT_S)


class Registrar:
    """What one rank says and hears; `turn` is called until it returns True."""

    def __init__(
        self,
        rendezvous: Rendezvous,
        member: Member,
        *,
        nonce: str,
        timeout_s: float,
        facts: Facts,
        look: Callable[[Places], str],
        say: Say,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`timeout_s`: after it a rank that is not heard of is lost. `facts` are the program's,
        `look` says why a run's places are not seen here, and `say` tells the keeper."""
        self._rendezvous = rendezvous
        self._member = member
        self._nonce = nonce
        self._look = look
        self._say = say
        self._clock = clock
        is_first = member.rank == 0
        since = int(1000 * time.time())  # counts from here are above any of the registrar before
        self._card = Card(
            nonce=nonce,
            heard=nonce if is_first else "",
            launcher=member.launcher,
            host=socket.gethostname(),
            facts=facts,
            beat=since,
            num_troubles=since,
        )
        self._roll = Roll(nonce, member.num_ranks, timeout_s=timeout_s) if is_first else None
        self._follower = Follower(nonce, member.rank, timeout_s=timeout_s)
        self._announcement: Announcement | None = None
        self._joined = [""] * member.num_ranks
        self._told: dict[str, object] = {}
        self._began_s, self._notice_s = clock(), FIRST_NOTICE_S
        self._left_s: float | None = None
        self._was_reached = False

    @property
    def wait_s(self) -> float:
        """How long to wait before the next turn."""
        is_quick = self._announcement is None or self._left_s is not None
        return FIRST_BEAT_S if is_quick else BEAT_S

    def take_orders(self, keeper: Connection) -> None:
        """Wait for the next turn, or for the keeper to say something."""
        if keeper.poll(self.wait_s):
            self.order(**msgpack.unpackb(keeper.recv_bytes()))

    def order(self, **fields: Any) -> None:
        """Take the keeper's word for fields of the card; a `trouble` is added to those told."""
        if trouble := fields.pop("trouble", ""):
            fields["troubles"] = (*self._card.troubles, trouble)[-MOST_TROUBLES:]
            fields["num_troubles"] = self._card.num_troubles + 1
        self._card = replace(self._card, **fields)
        if self._card.presence != "here":
            self._left_s = self._clock()

    def turn(self, now_s: float) -> bool:
        """Say what there is to say, hear the others; True if this process may leave."""
        self._say(phase="watching the other ranks", reached=self._card.beat)
        self._card = replace(self._card, beat=self._card.beat + 1)
        is_heard = self._lead(now_s) if self._roll is not None else self._follow(now_s)
        if is_heard and self._announcement is None:
            self._look_for_places()
        if self._left_s is None:
            return False
        needed = self._roll is not None and not self._roll.have_left
        is_unknown = self._roll is None and not self._was_reached
        longest_s = UNKNOWN_LEAVES_S if is_unknown else LEAVE_S
        return (is_heard and not needed) or self._clock() - self._left_s > longest_s

    def _look_for_places(self) -> None:
        """Answer rank 0's question, once a run."""
        places = self._rendezvous.find_places()
        if places is not None and places.run_id != self._card.seen:
            self._say(phase="looking for the checkpoint directory")
            unseen = self._look(places)
            self._card = replace(self._card, seen=places.run_id, unseen=unseen)

    # Rank 0 -----------------------------------------------------------------------------------

    def _lead(self, now_s: float) -> bool:
        """Count the others and say what follows; whether the board has that."""
        assert self._roll is not None
        cards = self._read_cards()
        self._roll.take(cards, now_s, joined=self._joined)
        count = self._roll.count(has_left=self._card.presence == "left")
        self._tell(count.board)
        for trouble in count.troubles:
            self._say(notice=trouble)
        self._tell_missing(count, now_s)
        if cards is None:
            return False
        board = replace(count.board, beat=self._card.beat)
        try:
            self._rendezvous.publish_board(board)
        except StoreAway:
            return False
        return True

    def _read_cards(self) -> list[Card | None] | None:
        """All ranks' cards, and who has joined the run; None if the store is away."""
        try:
            self._rendezvous.publish_card(0, self._card)
            cards = [self._rendezvous.read_card(r) for r in range(1, self._member.num_ranks)]
            self._announce_to_newcomers([self._card, *cards])
        except StoreAway:
            return None
        return [self._card, *cards]

    def _announce_to_newcomers(self, cards: list[Card | None]) -> None:
        """Announce the job to keepers that replace others, as long as the worker of the one before
        has not joined the run. Raises StoreAway."""
        announced = self._recall()
        if announced is None or announced.no_job is not None:
            return
        nonces = list(announced.nonces)
        for rank, card in enumerate(cards):
            if not self._joined[rank] and (place := self._rendezvous.find_place(rank)):
                self._joined[rank] = place.nonce
            is_here = card is not None and card.heard == self._nonce
            if card is not None and is_here and not self._joined[rank]:
                nonces[rank] = card.nonce
        if tuple(nonces) != announced.nonces:
            self._announcement = replace(announced, nonces=tuple(nonces))
            self._rendezvous.announce_anew(self._announcement)

    def _tell_missing(self, count: Count, now_s: float) -> None:
        waited_s = now_s - self._began_s
        if count.missing and waited_s > self._notice_s:
            self._notice_s = 2 * waited_s
            ranks = " ".join(map(str, count.missing))
            self._say(notice=f"waiting for rank {ranks} to start, for {waited_s:.0f} s now")

    # Other ranks ------------------------------------------------------------------------------

    def _follow(self, now_s: float) -> bool:
        """Say that this rank is there, and hear rank 0; whether the store has that."""
        board, is_heard, is_read = None, False, False
        try:
            first = self._rendezvous.read_card(0)
            if first is not None and self._follower.board is None:  # else it was another attempt's
                self._card = replace(self._card, heard=first.nonce)
            self._rendezvous.publish_card(self._member.rank, self._card)
            self._was_reached = True
            is_failed = self._card.presence == "failed"
            is_heard = not is_failed or bool(self._card.heard)  # else rank 0 passes it over
            board = self._rendezvous.read_board()
            is_read = True
        except StoreAway:
            self._tell_unreached(now_s)
        over = self._follower.take(board, now_s)
        heeded = self._follower.board
        if heeded is not None:
            self._tell(replace(heeded, over=over))
            if is_read:
                self._recall()
        elif over:
            self._tell(Board(nonces=(), over=over))
        return is_heard

    def _tell_unreached(self, now_s: float) -> None:
        """Say that the store was not reached yet; rank 0 hears nothing of this rank and can't."""
        waited_s = now_s - self._began_s
        if self._was_reached or waited_s <= self._notice_s or not self._member.speaks_here:
            return
        self._notice_s = 2 * waited_s
        who, store = name_of(self._member.rank, self._card.host), self._member.store
        self._say(
            notice=f"{who} does not reach the job's store at MASTER_ADDR {store.host}, MASTER_PORT"
            f" {store.port}, for {waited_s:.0f} s now; does rank 0 run there, or is a firewall"
            " between them?"
        )

    # Both -------------------------------------------------------------------------------------

    def _recall(self) -> Announcement | None:
        """What was announced; the next generation of this process is to know it too, if the store
        was this one's."""
        if self._announcement is None:
            self._announcement = self._rendezvous.recall_announcement()
            if self._announcement is not None:
                self._say(known=self._rendezvous.known)
        return self._announcement

    def _tell(self, board: Board) -> None:
        """Tell the keeper what is new for it."""
        new = {
            key: value
            for key, value in (
                ("stop", board.stop),
                ("stop_by", board.stop_by),
                ("over", board.over),
                ("has_left", board.has_left),
            )
            if value and self._told.get(key) != value
        }
        if new:
            self._told |= new
            self._say(**new)
