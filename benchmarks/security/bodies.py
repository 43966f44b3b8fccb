"""What each attack of the catalogue does, by its name.

Owns the joining alone, so that the catalogue can be read without torch.
"""

from collections.abc import Mapping
from functools import partial

from benchmarks.security import (
    coordinator_attacks,
    edge_attacks,
    floods,
    frames,
    login_attacks,
    store_attacks,
    wire_attacks,
)
from benchmarks.security.catalogue import ALL_SORTS, RECORD, REPLAY
from benchmarks.security.stranger import Body

REMAIN_ROOT = (RECORD, REPLAY)
"""Those who act as a host on the network might: to listen on a wire takes root here."""


def bodies(num_frames: int) -> Mapping[str, Body]:
    """All of them; `num_frames` is how many frames of all sorts are sent."""
    forge_result = coordinator_attacks.forge_result
    return {
        RECORD: wire_attacks.record_run,
        "announcement-model": store_attacks.forge_model,
        "announcement-run-dir": store_attacks.forge_run_dir,
        "announcement-replay": store_attacks.replay_announcement,
        "result-null": partial(forge_result, mechanism="NULL"),
        "result-curve": partial(forge_result, mechanism="CURVE"),
        "result-plain": partial(forge_result, mechanism="PLAIN"),
        "finished": store_attacks.set_finished,
        "store-junk": store_attacks.junk_in_store,
        "store-early": store_attacks.junk_before_the_job,
        "garbage": coordinator_attacks.garbage_every_second,
        "scan": coordinator_attacks.scan_and_get,
        "huge-frame": coordinator_attacks.send_huge_frame,
        "squatted": coordinator_attacks.squat_identities,
        "hello": edge_attacks.say_far_hello,
        "stop-3": edge_attacks.say_stop_3,
        "stop-far": edge_attacks.say_stop_far,
        "silent-peer": edge_attacks.listen_silently,
        "flood": floods.flood_small,
        "flood-headers": floods.flood_well_formed,
        "unfinished": floods.leave_unfinished,
        "slow": floods.stay_half_open,
        "files": login_attacks.read_files,
        "ipc": login_attacks.join_ipc,
        REPLAY: wire_attacks.replay_wire,
        ALL_SORTS: partial(frames.send_all_sorts, total=num_frames),
    }
