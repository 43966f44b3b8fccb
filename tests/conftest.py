"""What tests of several folders need: an S3 server of their own."""

import importlib.util
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

BUCKET = "bucket"
NEEDED = ("moto", "s3fs")
TIMEOUT_S = 60.0
STARTED = re.compile(r"Running on (http://127\.0\.0\.1:\d+)")
MAKE_BUCKET = f"import s3fs; s3fs.S3FileSystem().mkdir({BUCKET!r})"


@pytest.fixture(scope="session")
def s3(tmp_path_factory) -> Iterator[str]:
    """The URL of a bucket in an S3 server (moto's) in a process of its own; this process and those
    it starts find it by their environment."""
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        pytest.skip(f"{', '.join(missing)} not installed here; pip install -e '.[dev]'")
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", "0"]
    log = tmp_path_factory.mktemp("s3") / "server.log"  # a pipe that nobody reads would fill up
    with log.open("w") as file:
        server = subprocess.Popen(command, stdout=file, stderr=file)
    try:
        surroundings = {
            "AWS_ENDPOINT_URL": _address(server, log),
            "AWS_ACCESS_KEY_ID": "key",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_DEFAULT_REGION": "us-east-1",
        }
        with pytest.MonkeyPatch.context() as patch:
            for name, value in surroundings.items():
                patch.setenv(name, value)
            subprocess.run([sys.executable, "-c", MAKE_BUCKET], check=True, timeout=60)
            yield f"s3://{BUCKET}"
    finally:
        server.kill()
        server.wait()


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
    if importlib.util.find_spec("s3fs") is None:
        pytest.skip("s3fs not installed here; pip install -e '.[dev]'")
    for name, value in (("ENDPOINT_URL", "http://127.0.0.1:9"), ("ACCESS_KEY_ID", "key")):
        monkeypatch.setenv(f"AWS_{name}", value)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    return f"s3://{BUCKET}"
