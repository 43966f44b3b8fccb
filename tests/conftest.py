"""What tests of several folders need: one thread, and an S3 server of their own."""

import contextlib
import importlib.util
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

# Two processes share two cores, and arrays are tiny: more threads would wait for each other. Both
# are read at an import, here and in what tests start; a job's own threads are those of its flags.
os.environ["OPENBLAS_NUM_THREADS"] = os.environ["OMP_NUM_THREADS"] = "1"

import torch

torch.set_num_threads(1)

BUCKET = "bucket"
TIMEOUT_S = 60.0
STARTED = re.compile(r"Running on (http://127\.0\.0\.1:\d+)")
MAKE_BUCKET = f"import s3fs; s3fs.S3FileSystem().mkdir({BUCKET!r})"


@pytest.fixture(scope="session")
def s3(tmp_path_factory) -> Iterator[str]:
    """The URL of a bucket in an S3 server (moto's) in a process of its own; this process and those
    it starts find it by their environment."""
    with serving_s3(tmp_path_factory.mktemp("s3")) as server:
        yield server.url


@dataclass
class S3Server:
    """A server with one bucket, and what says to a process that this is S3."""

    process: "subprocess.Popen[bytes]"
    environment: dict[str, str]
    url: str = f"s3://{BUCKET}"


@contextlib.contextmanager
def serving_s3(directory: Path) -> Iterator[S3Server]:
    """Serve S3 and have this process's environment say so; skips a test without what it needs."""
    skip_without("moto", "s3fs")
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", "0"]
    log = directory / "server.log"  # a pipe that nobody reads would fill up
    with log.open("w") as file:
        process = subprocess.Popen(command, stdout=file, stderr=file)
    try:
        with pytest.MonkeyPatch.context() as patch:
            environment = surroundings(_address(process, log))
            for name, value in environment.items():
                patch.setenv(name, value)
            subprocess.run([sys.executable, "-c", MAKE_BUCKET], check=True, timeout=TIMEOUT_S)
            yield S3Server(process, environment)
    finally:
        process.kill()
        process.wait()


def surroundings(address: str) -> dict[str, str]:
    """An environment in which S3 is at that address; one that is not there is given up soon."""
    soon = {"connect_timeout": 2, "read_timeout": 5, "retries": {"max_attempts": 0}}
    return {
        "AWS_ENDPOINT_URL": address,
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1",
        "FSSPEC_S3": json.dumps({"config_kwargs": soon}),
    }


def skip_without(*packages: str) -> None:
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    if missing:
        pytest.skip(f"{', '.join(missing)} not installed here; pip install -e '.[dev]'")


def _address(server: "subprocess.Popen[bytes]", log: Path) -> str:
    deadline_s = time.monotonic() + TIMEOUT_S
    while (found := STARTED.search(log.read_text())) is None:
        assert server.poll() is None, log.read_text()
        assert time.monotonic() < deadline_s, "moto's server does not start"
        time.sleep(0.05)
    return found[1]


@pytest.fixture
def unreachable(monkeypatch) -> str:
    """The URL of a bucket in a server that is not there."""
    skip_without("s3fs")
    for name, value in surroundings("http://127.0.0.1:9").items():
        monkeypatch.setenv(name, value)
    return f"s3://{BUCKET}"
