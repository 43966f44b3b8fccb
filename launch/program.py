"""How a config becomes the job that every process of a run loads.

Imports no torch: the keeper reads this. What needs torch is imported in the functions, which run
in the coordinator and the workers.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

import psutil

from launch.config import (
    ROLES,
    ConfigError,
    HostError,
    ResolvedConfig,
    Role,
    RunConfig,
    kebab,
    show,
)
from launch.config_file import from_toml
from launch.launcher import TORCHRUN_ID
from launch.resume import resume
from launch.shown_progress import showing
from runtime.faults.plan import parse
from runtime.program import Facts, Program, Tell
from runtime.state.storage import check_place

if TYPE_CHECKING:
    from launch.job import LocalLearningJob

PRELOAD = ("runtime.coordinator.coordinator", "runtime.worker.process", "launch.job")


def make_program(config: RunConfig, *, name: str, secret: bytes) -> Program:
    """Describe the run of a config to the keeper, but for what can be wrong with this host alone;
    `secret` is the job's."""
    return Program(
        resolve=partial(resolve_text, config, name),
        facts=facts_here,
        rank_timeout_s=config.rank_timeout_s,
        load=partial(load_job, config),
        secret=secret,
        preload=PRELOAD,
        run_dir=None if config.run_dir is None else str(config.run_dir),
        name=name,
        run_name=config.model.rpartition(":")[2],
        started_t=command_time(),
        resume=resume,
        fresh=config.fresh,
        shares_run_dir=config.share_run_dir,
        hang_timeout_s=config.hang_timeout_s,
        phase_timeout_s=config.phase_timeout_s,
        max_worker_restarts=config.max_worker_restarts,
        faults=parse(config.faults),
    )


def checkpoint_place(config: RunConfig) -> str | None:
    """Where the checkpoints are to be, as an absolute path or a URL, if not in the run directory.
    Raises HostError if this host can't open such a URL."""
    if config.checkpoint_dir is None:
        return None
    try:
        return check_place(config.checkpoint_dir)
    except ValueError as error:
        raise HostError(f"checkpoint-dir {error}") from error


def facts_here() -> Facts:
    """What this rank's machine is like."""
    from launch import environment

    return environment.facts_here()


def resolve_text(
    config: RunConfig,
    name: str,
    recorded: str | None,
    tell: Tell,
    ranks: Sequence[Facts] | None,
) -> str:
    """Resolve a config on this machine, or on those of all `ranks`, and return it as text.

    `recorded` is the config.toml of the run that is resumed. `tell` is told which phase of that
    begins, and what lasts is printed behind `name`. Raises ConfigError.
    """
    from launch.environment import Environment
    from launch.resolve import dump, resolve

    environment = Environment.from_process() if ranks is None else Environment.of_ranks(ranks)
    old = None if recorded is None else from_toml(recorded)
    return dump(resolve(config, environment=environment, recorded=old, tell=showing(name, tell)))


def load_job(own: RunConfig, text: str) -> LocalLearningJob:
    """Make the job of what `resolve_text` returned. Raises ConfigError if it names other code than
    this rank was started with, before any of that is imported; or if rank 0 was started with other
    flags, but for those of a place, of which each host may have its own."""
    from launch.job import LocalLearningJob
    from launch.resolve import config_of, restore
    from launch.users_code import CODE

    announced = config_of(text)
    for name in CODE:
        _refuse_other(name, own, announced)
    given = own.given if isinstance(own, ResolvedConfig) else own
    for name, role in ROLES.items():
        if role is not Role.PLACE:
            _refuse_other(name, given, announced.given)
    return LocalLearningJob(restore(text))


def _refuse_other(name: str, own: RunConfig, rank_0s: RunConfig) -> None:
    """Raise ConfigError if a field is not rank 0's."""
    if (ours := getattr(own, name)) != (theirs := getattr(rank_0s, name)):
        flag = kebab(name)
        here = f"without {flag}" if ours is None else f"with {flag} {show(ours)}"
        there = "without it" if theirs is None else f"with {show(theirs)}"
        raise ConfigError(
            f"started {here}, but rank 0 {there}; start all ranks by the same command"
        )


def command_time() -> float:
    """When the command was given, in unix seconds: torchrun's start if it runs us.

    By the process's age: the kernel's boot time, on which psutil's create_time stands, is whole
    seconds only.
    """
    under_torchrun = TORCHRUN_ID in os.environ
    process = psutil.Process(os.getppid()) if under_torchrun else psutil.Process()
    began_s = process.create_time() - psutil.boot_time()
    age_s = time.clock_gettime(time.CLOCK_BOOTTIME) - began_s
    return time.time() - max(0.0, age_s)
