"""Which link carries a job's messages here, if that is left open or can't be what was asked for.

Owns the choice for a whole job; between hosts, `auto` is decided edge by edge
(runtime.worker.connect).
"""

from launch.config import ConfigError, Link, RunConfig
from launch.environment import Environment


def choose_link(
    config: RunConfig, environment: Environment, *, device: str, workers: int
) -> tuple[Link, str | None]:
    """The link, and a note if it is not the one that was asked for. Raises ConfigError."""
    if config.link != "nccl":
        return _reachable(config.link, config, environment), None
    link = _reachable("auto", config, environment)
    reasons = ["transfers between GPUs are not built yet"]
    if (missing := _missing(environment, device=device, workers=workers)) is not None:
        reasons.append(missing)
    told = ", and ".join(reasons)
    return link, f"--link nccl can't be used: {told}; --link {link} is used instead"


def _missing(environment: Environment, *, device: str, workers: int) -> str | None:
    """What would keep NCCL from carrying this job's messages, whoever built on it."""
    if device == "cpu":
        return "the workers compute on CPUs"
    if not environment.has_nccl:
        return "this torch was built without NCCL"
    here = environment.local_world_size or workers
    if here > environment.gpus:
        return f"NCCL refuses two ranks on one GPU, and {here} workers share {environment.gpus}"
    return None


def _reachable(link: Link, config: RunConfig, environment: Environment) -> Link:
    """The link by which these hosts reach each other; on one host none is left open."""
    one_host = environment.is_one_host
    if link in ("shm", "zmq-ipc") and not one_host:
        raise ConfigError(f"link {link} reaches one host only; use --link auto or zmq")
    if one_host and link not in ("zmq-tcp", "gloo"):
        found: dict[Link, Link] = {"auto": "shm", "zmq": "zmq-ipc"}
        return found.get(link, link)
    if link == "gloo" and not one_host and not config.insecure_network:
        raise ConfigError(
            "link gloo knows no one by name: whoever reaches its sockets can send tensors; use"
            " --link zmq between hosts, or give --insecure-network if nobody else can reach them"
        )
    if link == "gloo" and config.encrypt_tensors:
        raise ConfigError("link gloo can't encrypt tensors; use --link zmq with --encrypt-tensors")
    return "zmq-tcp" if link == "zmq" else link
