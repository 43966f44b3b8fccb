"""How the processes of a job find each other: by what each of them says in a key-value store.

Owns the keys, and whom to believe. Under torchrun anyone who reaches the store's port can read and
write it. It holds which ranks are there, the resolved config, addresses, and that the result is
durable, each sealed by a key that the job's secret gives (runtime.trust). What is not sealed by it
is as good as not there.

An attempt at a job is named by the nonce that rank 0's keeper draws at its start:

    card/RANK  board        which ranks are there (runtime.membership.cards)
    NONCE/places            where checkpoints are to be: does every rank see that place?
    NONCE/job               the announcement
    RUN/place/K edge/K ...  in the run that was announced
"""

import contextlib
import json
import logging
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

from runtime.membership.cards import Board, Card, Places
from runtime.program import Meeting
from runtime.store import SharedStore, StoreAway, open_store
from runtime.trust.keys import RunKeys, rendezvous_key
from runtime.trust.sealing import seal, unseal

log = logging.getLogger(__name__)

WAIT_S = 600.0  # for another process
LOOK_EVERY_S = 0.02
REPEAT_S = 1.0
LOOK_AGAIN_S = 0.2  # if what lies there is not this job's
TOLD_AFTER_S = 2.0
REFUSAL_TIMEOUT_S = 30.0  # for the ranks that are to hear that there is no job
REMEDY = "start all hosts with the same --secret-file"
ROOT = "loco"
BOARD_KEY = "board"
FINISHED_KEY = "finished"
RUN_DIR_KEY = "run-dir"


class RendezvousError(Exception):
    """The other processes of the job did not turn up in time."""


@dataclass(frozen=True, kw_only=True)
class Announcement:
    """What the coordinator tells every worker: the job, or that there is none.

    `no_job` is given if there is no job to run, and says how each worker is to end
    (runtime.program: DONE, REFUSED, NOT_STARTED). `checkpoint_dir` is where checkpoints are (a path
    or URL), `resume` the name there of the one to begin from, and `resume_step` its step; `recut`
    says that it was made with another cut. It is for the keepers whose `nonces` it has: to others
    it is one of an earlier job.
    """

    no_job: int | None = None
    job_text: str = ""
    run_id: str = ""
    run_dir: str = ""
    checkpoint_dir: str = ""
    coordinator: str = ""
    resume: str = ""
    resume_step: int = 0
    recut: bool = False
    nonces: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a worker is: `host` is equal for those that can share memory, and `memory` is the
    path there of what it has sent. `nonce` is its keeper's."""

    host: str
    memory: str
    nonce: str = ""


class Shelf(Protocol):
    """What a rendezvous needs of a store (runtime.store.SharedStore); both raise StoreAway."""

    def put(self, key: str, value: bytes) -> None: ...
    def find(self, key: str) -> bytes | None: ...


class Rendezvous:
    """What is said in the store, by this process and to it.

    `known` is what this process, or a generation before it, has found to be sealed by this job, by
    key: it stays valid if someone writes over it in the store. Before the announcement values are
    sealed by the secret's key, afterwards by the run's.
    """

    def __init__(
        self,
        store: Shelf,
        *,
        secret: bytes,
        nonce: str = "",
        num_ranks: int | None = None,
        launcher: str = "",
        known: Mapping[str, bytes] | None = None,
        timeout_s: float = WAIT_S,
    ) -> None:
        """`nonce` is this process's keeper's, of which a launcher has `num_ranks`; None if there is
        but this one. `launcher` is equal for all attempts of a launcher and for no other's.
        `timeout_s`: how long to wait for another process."""
        self.known = dict(known or {})
        self._store = store
        self._nonce = nonce
        self._num_ranks = num_ranks
        self._timeout_s = timeout_s
        self._secret = secret
        self._first_key = rendezvous_key(secret)
        self._is_away = False  # and that was said
        self._run_id = ""
        self._run_key = b""
        self._launcher = launcher
        self._run_dir_key = f"{RUN_DIR_KEY} of {launcher}"
        self._said: dict[str, bytes] = {}  # by this process, in case that the store is lost
        self._said_s = -math.inf

    # Which ranks are there --------------------------------------------------------------------

    def publish_card(self, rank: int, card: Card) -> None:
        """Say what a rank says of itself. Raises StoreAway."""
        self._put(_card_key(rank), card.to_text())

    def read_card(self, rank: int) -> Card | None:
        """What a rank says of itself; None if it says nothing. Raises StoreAway."""
        text = self._unsealed(_card_key(rank), self._store.find(_at(_card_key(rank))))
        return None if text is None else Card.from_text(text)

    def publish_board(self, board: Board) -> None:
        """Say what rank 0 says to all. Raises StoreAway."""
        self._put(BOARD_KEY, board.to_text())

    def read_board(self) -> Board | None:
        """What rank 0 says to all; None if it says nothing. Raises StoreAway."""
        text = self._unsealed(BOARD_KEY, self._store.find(_at(BOARD_KEY)))
        return None if text is None else Board.from_text(text)

    def await_cards(self, *, timeout_s: float | None = None) -> list[Card]:
        """Wait for the cards of all ranks of this attempt, which is that of this process's keeper.
        Raises RendezvousError after `timeout_s`."""
        assert self._num_ranks is not None, "without a launcher there are no ranks"
        deadline_s = time.monotonic() + (self._timeout_s if timeout_s is None else timeout_s)
        for rank in range(self._num_ranks):
            left_s = deadline_s - time.monotonic()
            self._get(_card_key(rank), is_meant=self._has_heard_us, timeout_s=left_s)
        return [Card.from_text(text) for text in self._cards_here()]

    def _cards_here(self) -> list[str]:
        found = (
            self._find(_card_key(rank), is_meant=self._has_heard_us)
            for rank in range(self._num_ranks or 0)
        )
        return [text for text in found if text is not None]

    def _has_heard_us(self, text: str) -> bool:
        return Card.from_text(text).heard == self._nonce

    def publish_places(self, places: Places) -> None:
        """Ask all ranks of this attempt whether they see these places."""
        self._set(_places_key(self._nonce), places.to_text())

    def find_places(self) -> Places | None:
        """What this attempt's rank 0 asks for, if it does."""
        for nonce in self._nonces_of_rank_0():
            text = self._find(_places_key(nonce))
            if text is not None:
                return Places.from_text(text)
        return None

    def await_answers(self, run_id: str) -> list[Card]:
        """Wait until all ranks have looked for a run's places. Raises RendezvousError."""
        assert self._num_ranks is not None, "without a launcher there are no ranks"

        def has_looked(text: str) -> bool:
            return self._has_heard_us(text) and Card.from_text(text).seen == run_id

        return [
            Card.from_text(self._get(_card_key(rank), is_meant=has_looked))
            for rank in range(self._num_ranks)
        ]

    # Before there is a run --------------------------------------------------------------------

    def announce(self, announcement: Announcement) -> Announcement:
        """Wait for all ranks, then tell them the job. That there is none is told after
        REFUSAL_TIMEOUT_S at most, to those that are there. Returns what is told. Raises
        RendezvousError if a rank does not come and there is a job."""
        announcement = replace(announcement, nonces=self._nonces(announcement))
        self.announce_anew(announcement)
        self._begin(announcement)
        return announcement

    def announce_anew(self, announcement: Announcement) -> None:
        """Tell the same to keepers that have come in the place of others."""
        self._set(_job_key(self._nonce), json.dumps(vars(announcement)))

    def _nonces(self, announcement: Announcement) -> tuple[str, ...]:
        if self._num_ranks is None:
            return (self._nonce,)
        if announcement.no_job is None:
            return tuple(card.nonce for card in self.await_cards())
        with contextlib.suppress(RendezvousError):
            self.await_cards(timeout_s=min(REFUSAL_TIMEOUT_S, self._timeout_s))
        return tuple(Card.from_text(text).nonce for text in self._cards_here())

    def await_announcement(self) -> Announcement:
        """Wait for the coordinator. Raises RendezvousError after the timeout."""
        wait = _Wait("job", self._timeout_s)
        while (found := self.recall_announcement()) is None:
            self.repeat()
            wait.again(is_foreign=self._is_led_by_strangers)
        return found

    def recall_announcement(self) -> Announcement | None:
        """What is announced to this process's keeper, if that is known."""
        for nonce in self._nonces_of_rank_0():
            text = self._find(_job_key(nonce), is_meant=self._is_for_us)
            if text is not None:
                found = _announcement(text)
                self._begin(found)
                return found
        return None

    @property
    def _is_alone(self) -> bool:
        return self._num_ranks is None

    def _nonces_of_rank_0(self) -> list[str]:
        """The nonces by which this attempt may be named: what the store has now, and what was known
        before."""
        if self._is_alone:
            return [self._nonce]
        key, known = _card_key(0), self.known.get(_card_key(0))
        now = self._find(key)  # if nothing of it lies there, what is known
        found = (now, self._unsealed(key, known))
        nonces = (Card.from_text(text).nonce for text in found if text is not None)
        return list(dict.fromkeys(nonces))

    @property
    def _is_led_by_strangers(self) -> bool:
        """Whether what lies where rank 0 speaks is not this job's."""
        key = _job_key(self._nonce) if self._is_alone else _card_key(0)
        sealed = self._read(key)
        return sealed is not None and self._unsealed(key, sealed) is None

    def _is_for_us(self, text: str) -> bool:
        return self._nonce in _announcement(text).nonces

    def _begin(self, announcement: Announcement) -> None:
        if announcement.no_job is None:
            self._run_id = announcement.run_id
            self._run_key = RunKeys(self._secret, announcement.run_id).sealing

    # In a run ---------------------------------------------------------------------------------

    def mark_finished(self) -> None:
        """Say, to whoever begins after the coordinator has left, that the result is durable."""
        self._set(self._in_run(FINISHED_KEY), "1")

    def is_finished(self) -> bool:
        """Whether the result is durable; asks the store."""
        return bool(self._run_id) and self._find(self._in_run(FINISHED_KEY)) is not None

    def publish_coordinator(self, address: str) -> None:
        """Say that the coordinator listens elsewhere than was announced."""
        self._set(self._in_run("coordinator"), address)

    def find_coordinator(self) -> str | None:
        """Where the coordinator listens now, if it is not where it was announced; does not wait
        longer than the store takes."""
        return self._find(self._in_run("coordinator"))

    def publish_place(self, block_index: int, place: Place) -> None:
        """Say where worker k is."""
        self._set(self._in_run(f"place/{block_index}"), json.dumps(vars(place)))

    def await_place(self, block_index: int) -> Place:
        """Wait for a worker's place. Raises RendezvousError after the timeout."""
        return Place(**json.loads(self._get(self._in_run(f"place/{block_index}"))))

    def find_place(self, block_index: int) -> Place | None:
        """A worker's place, if it is known by now; does not wait longer than the store takes."""
        text = self._find(self._in_run(f"place/{block_index}"))
        return None if text is None else Place(**json.loads(text))

    def publish_edge(self, edge: int, address: str) -> None:
        """Say where the lower end of an edge listens."""
        self._set(self._in_run(f"edge/{edge}"), address)

    def await_edge(self, edge: int) -> str:
        """Wait for an edge's address. Raises RendezvousError after the timeout."""
        return self._get(self._in_run(f"edge/{edge}"))

    def find_edge(self, edge: int) -> str | None:
        """An edge's address, if it is known by now; does not wait longer than the store takes."""
        return self._find(self._in_run(f"edge/{edge}"))

    def _in_run(self, key: str) -> str:
        assert self._run_id, f"{key} before there is a run"
        return f"{self._run_id}/{key}"

    # Between attempts -------------------------------------------------------------------------

    def remember_run_dir(self, path: str) -> None:
        """Remember the run directory for a restart by the same launcher, if it can be told from
        others."""
        if self._launcher:
            self._set(self._run_dir_key, path)

    def recall_run_dir(self) -> str | None:
        """The directory of an attempt before this one, if there was one."""
        return self._find(self._run_dir_key) if self._launcher else None

    # Sealed values ----------------------------------------------------------------------------

    def _key_of(self, key: str) -> bytes:
        """What seals a value: the secret itself, for what is said before there is a run."""
        in_run = self._run_id and key.startswith(f"{self._run_id}/")
        return self._run_key if in_run else self._first_key

    def _put(self, key: str, text: str) -> bytes:
        sealed = seal(self._key_of(key), key, text)
        self._store.put(_at(key), sealed)
        return sealed

    def _set(self, key: str, text: str) -> None:
        """Put it there, however long the store is away. Raises RendezvousError after the
        timeout."""
        wait = _Wait(key, self._timeout_s)
        while True:
            try:
                self.known[key] = self._said[key] = self._put(key, text)
                return
            except StoreAway as error:
                log.info("%r: %s", key, error)
                wait.again(is_foreign=False)

    def repeat(self) -> None:
        """Say again what this process has said, once a second at most: whoever hosts the store may
        have died, and the store with it."""
        if time.monotonic() - self._said_s < REPEAT_S:
            return
        self._said_s = time.monotonic()
        with contextlib.suppress(StoreAway):
            for key, sealed in self._said.items():
                self._store.put(_at(key), sealed)

    def _unsealed(self, key: str, sealed: bytes | None) -> str | None:
        return None if sealed is None else unseal(self._key_of(key), key, sealed)

    def _find(self, key: str, *, is_meant: Callable[[str], bool] = bool) -> str | None:
        """The text of a key: what lies there if it is sealed by this job and `is_meant`; else what
        is known of it."""
        for sealed in (self._read(key), self.known.get(key)):
            text = self._unsealed(key, sealed)
            if text is not None and sealed is not None and is_meant(text):
                self.known[key] = sealed
                return text
        return None

    def _read(self, key: str) -> bytes | None:
        """What lies at a key; None if nothing does, or that is unknown."""
        try:
            found = self._store.find(_at(key))
        except StoreAway as error:
            log.log(logging.DEBUG if self._is_away else logging.INFO, "%r: %s", key, error)
            self._is_away = True
            return None
        self._is_away = False
        return found

    def _holds_something(self, key: str) -> bool:
        return self._read(key) is not None

    def _get(
        self, key: str, *, is_meant: Callable[[str], bool] = bool, timeout_s: float | None = None
    ) -> str:
        """The text of a key, waited for. Raises RendezvousError."""
        wait = _Wait(key, self._timeout_s if timeout_s is None else timeout_s)
        while (text := self._find(key, is_meant=is_meant)) is None:
            self.repeat()
            wait.again(is_foreign=self._holds_something(key))
        return text


class _Wait:
    """One wait for a key, and what is said of it."""

    def __init__(self, key: str, timeout_s: float) -> None:
        self._key = key
        self._began_s = time.monotonic()
        self._timeout_s = timeout_s
        self._was_told = False

    def again(self, *, is_foreign: bool) -> None:
        """Rest before the next look; `is_foreign`: what lies there is not this job's. Raises
        RendezvousError after the timeout."""
        waited_s = time.monotonic() - self._began_s
        if waited_s > self._timeout_s:
            nothing = f"nothing of {self._key!r} from the other processes in {waited_s:.0f} s"
            raise RendezvousError(f"{self._foreign}; {REMEDY}" if is_foreign else nothing)
        if is_foreign and not self._was_told and waited_s > TOLD_AFTER_S:
            self._was_told = True
            log.warning("%s; waiting for one that is: %s", self._foreign, REMEDY)
        time.sleep(LOOK_AGAIN_S if is_foreign else LOOK_EVERY_S)

    @property
    def _foreign(self) -> str:
        return (
            f"what the store has of {self._key!r} is not sealed by this job's secret, or is an"
            " earlier job's"
        )


def _card_key(rank: int) -> str:
    return f"card/{rank}"


def _places_key(nonce: str) -> str:
    return f"{nonce}/places"


def _job_key(nonce: str) -> str:
    return f"{nonce}/job"


def _at(key: str) -> str:
    """Where it lies in a store that is not this project's alone."""
    return f"{ROOT}/{key}"


def _announcement(text: str) -> Announcement:
    found: dict[str, Any] = json.loads(text)
    return Announcement(**found | {"nonces": tuple(found["nonces"])})


def open_rendezvous(
    meeting: Meeting, *, timeout_s: float, known: Mapping[str, bytes] | None = None
) -> Rendezvous:
    """Say and hear what a job's processes say; waits `timeout_s` for other processes."""
    member = meeting.member
    return Rendezvous(
        SharedStore(lambda: open_store(meeting.store)),
        secret=meeting.secret,
        nonce=meeting.nonce,
        num_ranks=None if member is None else member.num_ranks,
        launcher="" if member is None else member.launcher,
        known=known,
        timeout_s=timeout_s,
    )
