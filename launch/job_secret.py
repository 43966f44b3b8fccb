"""Which secret a job's ranks know each other by.

Owns the choice, and its refusal between hosts. Must not import torch: every rank asks before it
does anything.
"""

from launch.config import ConfigError, HostError, RunConfig
from launch.launcher import Launcher
from runtime.trust.secret import HOW_TO_MAKE, BadSecret, read_secret, users_secret

NO_SECRET = b"--insecure-network"  # known to everyone


def job_secret(config: RunConfig, launcher: Launcher | None) -> bytes:
    """The secret of the user's file; on one host without one, the user's own.

    Raises ConfigError, and HostError if it is this host's file.
    """
    try:
        if config.secret_file is not None:
            return read_secret(config.secret_file)
        if launcher is None or launcher.is_one_host:
            return users_secret()
    except BadSecret as error:
        raise HostError(str(error)) from error
    if config.insecure_network:
        return NO_SECRET
    raise ConfigError(
        "a job on several hosts needs --secret-file, the same file on each of them"
        f" ({HOW_TO_MAKE}); or --insecure-network, if nobody else can reach them"
    )
