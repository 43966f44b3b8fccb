"""Which link carries a job's messages here, if that is left open or can't be what was asked for.

Owns the choice for a whole job; between hosts, `auto` is decided edge by edge
(runtime.worker.connect).
"""

from launch.config import ConfigError, Link, RunConfig
from launch.environment import Environment


def choose_link(config: RunConfig, environment: Environment, *, device: str, workers: int) -> Link:
    """The link. Raises ConfigError if the one that was asked for can't be used here."""
    one_host, link = environment.is_one_host, config.link
    if link in ("shm", "zmq-ipc") and not one_host:
        raise ConfigError(f"link {link} reaches one host only; use --link auto or zmq")
    if link in ("gloo", "nccl"):
        if (reason := _untrusted(config, one_host=one_host)) is not None:
            raise ConfigError(f"link {link} {reason}")
        if link == "nccl" and (reason := _no_nccl(environment, device, workers)) is not None:
            raise ConfigError(f"link nccl moves tensors between GPUs, one a worker: {reason}")
        return link
    here: dict[Link, Link] = {"auto": "shm", "zmq": "zmq-ipc"}
    between: dict[Link, Link] = {"zmq": "zmq-tcp"}
    return (here if one_host else between).get(link, link)


def _untrusted(config: RunConfig, *, one_host: bool) -> str | None:
    """Why groups of torch.distributed can't be trusted with this job's tensors."""
    if not one_host and not config.insecure_network:
        return (
            "knows no one by name: whoever reaches its sockets can send tensors; use --link zmq"
            " between hosts, or give --insecure-network if nobody else can reach them"
        )
    if config.encrypt_tensors:
        return "can't encrypt tensors; use --link zmq with --encrypt-tensors"
    return None


def _no_nccl(environment: Environment, device: str, workers: int) -> str | None:
    """What keeps NCCL from carrying this job's messages, and what to do about it."""
    if not environment.gpus:
        return "no GPU is seen here; use --link auto"
    if device == "cpu":
        return "the workers compute on CPUs; use --device cuda, or --link auto"
    if not environment.has_nccl:
        return "this torch was built without NCCL; install one that has it, or use --link auto"
    if environment.has_mig:
        return "these are instances of MIG, which reach no other; use --link auto"
    here = environment.local_world_size or workers
    if here > environment.gpus:
        return (
            f"{here} workers share {environment.gpus} of a host; give at most that many --workers"
            " a host, or use --link auto"
        )
    return None
