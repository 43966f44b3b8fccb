"""How a job begins: what is to be run, where its files go, and from which checkpoint it resumes.

Owns that decision and its announcement, on which every process of the job relies.
"""

import errno
import logging
import secrets
import sys
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

import zmq

from runtime.coordinator.launch_mark import is_of_launch, mark_launch
from runtime.coordinator.reception import Reception
from runtime.job import Job
from runtime.links.channel import tcp_address
from runtime.membership.cards import PLACE_MARK, Card, Places
from runtime.program import DONE, Meeting, Program, Resumption, Tell
from runtime.records.run_dir import RunDir
from runtime.rendezvous import Announcement, Rendezvous
from runtime.state.checkpoint import (
    Checkpoint,
    DamagedCheckpoint,
    clear,
    has_complete,
    is_run_dir,
    last_committed,
    newest,
)
from runtime.state.storage import LocalStorage, Storage, open_storage, reason, try_out
from runtime.trust.keys import RunKeys

log = logging.getLogger(__name__)

LOCK_S = 100.0  # NFS's lease is 90 s
WAITING = "waiting for the other ranks"  # begins the name of each such phase: theirs are as long

Found = tuple[Announcement, RunDir, Reception | None]


def announce(program: Program, rendezvous: Rendezvous, meeting: Meeting, tell: Tell) -> Found:
    """Resolve the job, take its directory, and tell every worker; `tell` is told which phase of
    that begins. Without a job to run nobody is received. Raises ValueError.

    A directory that holds a run is resumed, from its newest whole checkpoint; so is the run whose
    checkpoints are in the program's checkpoint directory, in a new run directory too.
    """
    given = _try_checkpoint_dir(program, tell)
    cards = _cards_of_ranks(rendezvous, meeting, tell)
    launchers = [card.launcher for card in cards or () if card.launcher]
    is_fresh = program.fresh and not _goes_on(program, rendezvous, given, launchers)
    recorded = None if is_fresh else _recorded(program, rendezvous, given)
    facts = None if cards is None else [card.facts for card in cards]
    text = program.resolve(recorded, tell, facts)
    job = program.load(text)
    tell("taking the run directory, from another job if need be", takes_s=LOCK_S)
    run_dir = _take_run_dir(program, rendezvous, meeting)
    reception = None
    try:
        if is_fresh:
            _clear_checkpoints(given)
            run_dir.clear()
        rendezvous.remember_run_dir(str(run_dir.path.absolute()))  # the next attempt goes on there
        checkpoints = given or LocalStorage(run_dir.checkpoints.absolute())
        tell("verifying the checkpoints")
        checkpoint, how = _checkpoint(program, text, job, run_dir, checkpoints)
        if checkpoint is not None and run_dir.finished_steps == checkpoint.step == job.num_steps:
            _say(
                program,
                f"{run_dir.path} holds a finished run of {job.num_steps} steps; give more --epochs"
                " or --steps to extend it, or --fresh to start over",
            )
            _take_back_extension(run_dir, checkpoint, job)
            announcement = Announcement(no_job=DONE)
        else:
            job = job if how.text == text else program.load(how.text)
            announcement = _announcement(program, run_dir, checkpoints, checkpoint, how)
            if cards is not None:
                tell(f"{WAITING} to look for the checkpoint directory")
                _check_places(program, rendezvous, announcement.run_id, checkpoints)
                _mark(checkpoints, launchers)
                run_dir.mark(announcement.run_id)
            reception = _receive(job, announcement.run_id, _address(job, meeting), meeting)
            announcement = replace(announcement, coordinator=reception.address)
            elsewhere = None if given is None else given.locate()
            run_dir.write_config(job.config_toml, given=job.given_toml, checkpoint_dir=elsewhere)
        tell(WAITING)
        announcement = rendezvous.announce(announcement)
    except BaseException:
        if reception is not None:
            reception.close()
        run_dir.close()
        raise
    return announcement, run_dir, reception


def _announcement(
    program: Program,
    run_dir: RunDir,
    checkpoints: Storage,
    checkpoint: Checkpoint | None,
    how: Resumption,
) -> Announcement:
    """What is to be run, but for the coordinator's address; the user is told if it resumes."""
    if checkpoint is not None:
        _say(program, f"resumes from step {checkpoint.step} ({checkpoint.place})")
        for note in how.notes:
            _say(program, note)
    return Announcement(
        job_text=how.text,
        run_id=secrets.token_hex(8),
        run_dir=str(run_dir.path.absolute()),
        checkpoint_dir=checkpoints.locate(),
        resume="" if checkpoint is None else checkpoint.name,
        resume_step=0 if checkpoint is None else checkpoint.step,
        recut=checkpoint is not None and how.recut,
    )


def _address(job: Job, meeting: Meeting) -> str:
    """Where the coordinator listens: at a file if all that it hears is within the host."""
    if job.link in ("shm", "zmq-ipc"):
        return f"ipc://{meeting.directory}/coordinator"
    return tcp_address(meeting.address)


def recall(
    program: Program, rendezvous: Rendezvous, announcement: Announcement, meeting: Meeting
) -> Found:
    """What a coordinator before this one has announced, with its directory, and its address if that
    is free still."""
    run_dir = RunDir.create(Path(announcement.run_dir), name="", restart=True)
    job = program.load(announcement.job_text)
    known = rendezvous.find_coordinator() or announcement.coordinator
    try:
        reception = _receive(job, announcement.run_id, known, meeting)
    except zmq.ZMQError as error:
        log.warning("can't listen at %s (%s); listening elsewhere", known, error)
        reception = _receive(job, announcement.run_id, tcp_address(meeting.address), meeting)
        rendezvous.publish_coordinator(reception.address)
    return announcement, run_dir, reception


def _take_back_extension(run_dir: RunDir, checkpoint: Checkpoint, job: Job) -> None:
    """If a finished run was to be extended and was not, let its files be of what was run again.
    Raises ValueError."""
    there = run_dir.config_toml
    if not there.exists() or there.read_text("utf-8") != checkpoint.config_toml:
        text, place = checkpoint.config_toml, run_dir.checkpoint_dir
        run_dir.write_config(text, given=job.given_toml, checkpoint_dir=place)


def _cards_of_ranks(rendezvous: Rendezvous, meeting: Meeting, tell: Tell) -> list[Card] | None:
    """What all ranks say of themselves; None if all are on this host."""
    if meeting.member is None or meeting.member.is_one_host:
        return None
    tell(WAITING)
    return rendezvous.await_cards()


def _goes_on(
    program: Program, rendezvous: Rendezvous, given: Storage | None, launchers: Collection[str]
) -> bool:
    """Whether this is another attempt of the launch that has begun what lies there."""
    if rendezvous.recall_run_dir() is not None:
        return True
    place = given
    if place is None and program.run_dir is not None:
        place = LocalStorage(Path(program.run_dir, "checkpoints").absolute())
    try:
        return place is not None and is_of_launch(place, launchers)
    except OSError as error:
        assert place is not None
        raise _unusable(place, error) from error


def _receive(job: Job, run_id: str, bind: str, meeting: Meeting) -> Reception:
    keys = RunKeys(meeting.secret, run_id)
    return Reception(zmq.Context.instance(), bind, keys=keys, num_workers=job.num_workers)


def _try_checkpoint_dir(program: Program, tell: Tell) -> Storage | None:
    """The program's checkpoint directory, if it has one: written to, and read, before anything
    else begins. Raises ValueError."""
    place = program.checkpoint_dir
    if place is None:
        return None
    tell("trying the checkpoint directory")
    storage = open_storage(place)
    try:
        is_a_run = is_run_dir(storage) or (
            program.run_dir is not None and Path(program.run_dir).resolve() == Path(place).resolve()
        )
        if not is_a_run:
            try_out(storage)
            return storage
    except OSError as error:
        raise _unusable(storage, error) from error
    own = storage.locate("checkpoints")
    raise ValueError(
        f"checkpoint directory {place!r} is a run directory; give one of its own, such as {own!r},"
        " by --checkpoint-dir"
    )


def _check_places(
    program: Program, rendezvous: Rendezvous, run_id: str, checkpoints: Storage
) -> None:
    """Have every rank look for a mark in the checkpoint directory. Raises ValueError if one does
    not see it."""
    places = Places(run_id=run_id, checkpoint_dir=checkpoints.locate())
    try:
        checkpoints.write(PLACE_MARK, run_id.encode())
        rendezvous.publish_places(places)
        try:
            cards = rendezvous.await_answers(run_id)
        finally:
            checkpoints.remove(PLACE_MARK)
    except OSError as error:
        raise _unusable(checkpoints, error) from error
    blind = [(rank, card) for rank, card in enumerate(cards) if card.unseen]
    if not blind:
        return
    rank, card = blind[0]
    given = program.checkpoint_dir is not None
    remedy = "one that all hosts see" if given else "a directory or URL that all hosts see"
    raise ValueError(
        f"rank {rank} (host {card.host}) does not see the checkpoint directory"
        f" {places.checkpoint_dir!r} ({card.unseen}); give --checkpoint-dir {remedy}, such as"
        " s3://bucket/run"
    )


def _mark(checkpoints: Storage, launchers: Collection[str]) -> None:
    """Leave the launchers' mark there. Raises ValueError."""
    try:
        mark_launch(checkpoints, launchers)
    except OSError as error:
        raise _unusable(checkpoints, error) from error


def _unusable(storage: Storage, error: OSError) -> ValueError:
    return ValueError(
        f"checkpoint directory {storage.locate()!r} can't be used ({reason(error)}); mend that, or"
        " give another by --checkpoint-dir"
    )


def _recorded(program: Program, rendezvous: Rendezvous, given: Storage | None) -> str | None:
    """The config of the run that is resumed, if one is: of its directory, or of the newest
    checkpoint in the directory given for these. Raises ValueError."""
    wish = rendezvous.recall_run_dir() or program.run_dir
    path = Path(wish or "", "config.toml")
    if wish and path.is_file():
        return path.read_text("utf-8", errors="replace")
    if given is None:
        return None
    try:
        found = last_committed(given)
    except OSError as error:
        raise _unusable(given, error) from error
    return None if found is None else found.config_toml


def _take_run_dir(program: Program, rendezvous: Rendezvous, meeting: Meeting) -> RunDir:
    """The user's directory, the one of the attempt before this, or a new one. Raises ValueError."""
    wish = rendezvous.recall_run_dir() or program.run_dir
    path = None if wish is None else Path(wish)
    has_hosts = meeting.member is not None and not meeting.member.is_one_host
    return RunDir.create(
        path, name=program.run_name, restart=True, patience_s=LOCK_S if has_hosts else 0.0
    )


def _clear_checkpoints(given: Storage | None) -> None:
    """Delete the checkpoints in a directory of their own. Raises ValueError."""
    if given is None:
        return
    try:
        clear(given)
    except OSError as error:
        raise _unusable(given, error) from error


def _checkpoint(
    program: Program, text: str, job: Job, run_dir: RunDir, checkpoints: Storage
) -> tuple[Checkpoint | None, Resumption]:
    """The checkpoint to resume from, and how. Raises ValueError."""
    place = str(run_dir.path) if program.checkpoint_dir is None else checkpoints.locate()
    try:
        has_own = program.checkpoint_dir is not None and has_complete(checkpoints)
        if not run_dir.holds_run and not has_own:
            return None, Resumption(text=text)
        found = _newest_whole(program, checkpoints)
    except OSError as error:
        raise _unusable(checkpoints, error) from error
    if found is not None:
        how = program.resume(found.config_toml, found.step, text)
        if found.step > job.num_steps:
            what = "run" if program.checkpoint_dir is None else "checkpoint"
            raise ValueError(
                f"{what} directory {place!r} is at step {found.step}, beyond the"
                f" {job.num_steps} steps asked for; give more --epochs or --steps, or --fresh"
            )
        return found, how
    if run_dir.config_toml.exists():
        program.resume(run_dir.config_toml.read_text("utf-8"), 0, text)
    _refuse_other_place(run_dir, checkpoints)
    if run_dir.summary.exists():
        raise ValueError(
            f"run directory {str(run_dir.path)!r} holds a finished run and no checkpoint of it;"
            " give another by --run-dir, or --fresh to start over in it"
        )
    _say(program, f"{place} holds no complete checkpoint; the run starts over")
    return None, Resumption(text=text)


def _refuse_other_place(run_dir: RunDir, checkpoints: Storage) -> None:
    """Raise ValueError if the run, which is not where it was looked for, has its checkpoints in
    another place: to start over would lose what they hold."""
    path, recorded = str(run_dir.path), run_dir.checkpoint_dir
    is_elsewhere = recorded is not None and recorded != checkpoints.locate()
    if recorded is not None and is_elsewhere and _has_complete(open_storage(recorded)):
        raise ValueError(
            f"run directory {path!r} has its checkpoints elsewhere; give --checkpoint-dir"
            f" {recorded}, or --fresh to start over"
        )
    own = LocalStorage(run_dir.checkpoints.absolute())
    if recorded is None and own.locate() != checkpoints.locate() and _has_complete(own):
        raise ValueError(
            f"run directory {path!r} has its checkpoints in it; leave --checkpoint-dir out, or give"
            " --fresh to start over"
        )


def _has_complete(storage: Storage) -> bool:
    """Whether there is a complete checkpoint, be it damaged. Raises ValueError."""
    try:
        return has_complete(storage)
    except OSError as error:
        raise _unusable(storage, error) from error


def _newest_whole(program: Program, checkpoints: Storage) -> Checkpoint | None:
    """The newest whole checkpoint, if there is one; those before it are told and set aside. Raises
    OSError, also if the only ones can't be read this time: a run must not start over for that."""
    unread: DamagedCheckpoint | None = None
    for found in newest(checkpoints):
        if isinstance(found, Checkpoint):
            return found
        _say(program, f"a damaged checkpoint is passed over: {found}{found.set_aside()}")
        unread = unread if found.certain else found
    if unread is not None:
        raise OSError(errno.EIO, str(unread))
    return None


def _say(program: Program, text: str) -> None:
    print(f"{program.name}: {text}", file=sys.stderr, flush=True)
