"""The attacks by name: what each does, to which job, and how it is judged.

Owns the list. What an attack sends is in the files of its kind, which benchmarks.security.bodies
joins; whether it worked is the judge's.
"""

from dataclasses import dataclass
from enum import Enum

ATTACK_SHARE = 0.05  # of a core: what a stranger may take when the rate is judged
ALL_SORTS = "million"
RECORD = "undisturbed"
REPLAY = "replay"


class Job(Enum):
    """Which job is attacked."""

    DEFAULT = "default"  # one host, no flag of links: shared memory and ipc
    TCP = "tcp"  # every edge, and the coordinator, over tcp

    @property
    def flags(self) -> tuple[str, ...]:
        return ("--link=zmq-tcp",) if self is Job.TCP else ()


@dataclass(frozen=True, kw_only=True)
class Attack:
    """One attack, in a run of its own.

    `row` is of the table of threats in docs/security.md. `kills` are the blocks whose workers the
    benchmark kills once the attack is prepared: a reborn worker believes what it reads. An attack
    that is `early` begins when the launcher's store is there, all others when all workers train.
    `is_long`: the run is long enough for its rate to be judged, if `judges_rate`. `proof` is what
    its report counts of what it did (a number, or a list of them): of one who did nothing, nothing
    is shown.
    """

    name: str
    row: int
    does: str
    proof: str
    job: Job = Job.TCP
    kills: tuple[int, ...] = ()
    early: bool = False
    is_long: bool = False
    judges_rate: bool = False
    share: float = ATTACK_SHARE
    umask: int = -1


def _flood(name: str, does: str, proof: str) -> Attack:
    return Attack(name=name, row=7, does=does, proof=proof, is_long=True, judges_rate=True)


ATTACKS = (
    Attack(
        name="announcement-model",
        row=1,
        does="the announcement names a model of the stranger's; a worker is killed",
        proof="replaced",
        job=Job.DEFAULT,
        kills=(1,),
    ),
    Attack(
        name="announcement-run-dir",
        row=1,
        does="the announcement names another run directory; a worker is killed",
        proof="replaced",
        job=Job.DEFAULT,
        kills=(1,),
    ),
    Attack(
        name="announcement-replay",
        row=1,
        does="an earlier run's announcement is put in place; a worker is killed",
        proof="replayed_bytes",
        job=Job.DEFAULT,
        kills=(1,),
    ),
    Attack(name="result-null", row=2, does="a forged result, without security", proof="sent"),
    Attack(
        name="result-curve",
        row=2,
        does="a forged result, over CURVE with random keys",
        proof="sent",
    ),
    Attack(
        name="result-plain", row=2, does="a forged result, with a made-up password", proof="sent"
    ),
    Attack(
        name="finished",
        row=3,
        does="the store says that all is finished",
        proof="written",
        job=Job.DEFAULT,
    ),
    Attack(
        name="store-junk",
        row=3,
        does="junk in all keys, to the end",
        proof="written",
        job=Job.DEFAULT,
    ),
    Attack(
        name="store-early",
        row=3,
        does="junk in all keys before the job has set them",
        proof="written",
        job=Job.DEFAULT,
        early=True,
    ),
    Attack(
        name="garbage", row=4, does="a garbage message a second at the coordinator", proof="sent"
    ),
    Attack(
        name="scan",
        row=4,
        does="a port scan, and HTTP GETs",
        proof="http_gets",
        judges_rate=True,
        is_long=True,
    ),
    Attack(
        name="huge-frame",
        row=4,
        does="a frame of 512 MB at the coordinator, 64 of it sent",
        proof="taken_bytes",
    ),
    Attack(
        name="squatted",
        row=4,
        does="the workers' later identities are taken before them; a worker is killed",
        proof="squatted",
        kills=(1,),
    ),
    Attack(name="hello", row=5, does="a neighbour of generation 10^6 at each edge", proof="sent"),
    Attack(name="stop-3", row=5, does="an order to stop before step 3 at each edge", proof="sent"),
    Attack(
        name="stop-far", row=5, does="an order to stop before step 50 at each edge", proof="sent"
    ),
    Attack(
        name="silent-peer",
        row=6,
        does="a peer that only listens, at each edge",
        proof="peers",
        is_long=True,
        judges_rate=True,
    ),
    _flood("flood", "15 million small frames", "frames"),
    _flood("flood-headers", "300,000 well-formed headers at the edges", "frames"),
    _flood("unfinished", "60 MB of messages that never end, at each socket", "connections"),
    _flood("slow", "200 half-open connections, slow greetings, huge commands", "half_open"),
    Attack(
        name="files",
        row=8,
        does="another user reads and writes the run's files; umask 0",
        proof="tried",
        job=Job.DEFAULT,
        umask=0,
    ),
    Attack(
        name="ipc",
        row=8,
        does="another user joins the unix sockets",
        proof="sockets",
        job=Job.DEFAULT,
    ),
    Attack(
        name=REPLAY,
        row=9,
        does="what was sent at the beginning of the run is sent again",
        proof="said_connections",
        early=True,
        is_long=True,
    ),
    Attack(
        name=ALL_SORTS,
        row=9,
        does="frames of all sorts at every socket",
        proof="frames",
        is_long=True,
        share=0.25,
    ),
)


def undisturbed(job: Job, *, is_long: bool) -> Attack:
    """No attack: a run that is recorded."""
    return Attack(
        name=RECORD,
        row=0,
        does="nobody meddles",
        proof="keys",
        job=job,
        is_long=is_long,
        early=True,
    )
