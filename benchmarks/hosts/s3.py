"""An S3 server on a host of a job, in the place of a cluster's object store.

Owns its process and how a job finds it. It is moto's, a mock of S3 for tests.
"""

import contextlib
import importlib.util
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks.hosts.namespaces import Host

PORT = 29519
BUCKET = "bucket"
URL = f"s3://{BUCKET}/run"
START_S = 60.0
NEEDED = ("moto", "s3fs")


def missing() -> list[str]:
    """What is not installed here of what this needs."""
    return [name for name in NEEDED if importlib.util.find_spec(name) is None]


def environment(host: Host) -> dict[str, str]:
    """By which processes on any host find the server on this one."""
    address = f"[{host.address}]" if ":" in host.address else host.address
    return {
        "AWS_ENDPOINT_URL": f"http://{address}:{PORT}",
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1",
    }


@contextlib.contextmanager
def serving(host: Host, work: Path) -> Iterator[None]:
    """Serve an empty bucket. Raises TimeoutError."""
    work.mkdir(parents=True, exist_ok=True)
    given = {**os.environ, **environment(host)}
    command = [sys.executable, "-m", "moto.server", "-H", host.address, "-p", str(PORT)]
    with (work / "s3.txt").open("wb") as output:
        server = host.start(command, env=given, cwd=work, output=output)
    make = [
        *host.enter,
        sys.executable,
        "-c",
        f"import s3fs; s3fs.S3FileSystem().mkdir({BUCKET!r})",
    ]
    until_s = time.monotonic() + START_S
    try:
        while subprocess.run(make, env=given, capture_output=True, check=False).returncode:
            if time.monotonic() > until_s:
                raise TimeoutError((work / "s3.txt").read_text())
        yield
    finally:
        server.kill()
        server.wait()
