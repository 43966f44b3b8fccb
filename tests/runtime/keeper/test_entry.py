"""A keeper's child ends when its body does, with its code, whatever threads it has left."""

import subprocess
import sys

import pytest

TIMEOUT_S = 30.0
BODIES = """
import sys
import threading
from multiprocessing import util

def done(*given):
    print(*given)
    util.Finalize(None, print, args=("finalized",), exitpriority=1)

def leaves_a_thread():
    threading.Thread(target=threading.Event().wait).start()

def exits(code):
    sys.exit(code)

def raises():
    raise KeyError("no such key")

def closes():
    sys.stdout.close()
"""


@pytest.fixture
def run(tmp_path):
    (tmp_path / "bodies.py").write_text(BODIES)

    def run(body: str, *arguments: object) -> subprocess.CompletedProcess[str]:
        begin = f"import runtime.keeper.entry as entry; entry.run({body!r}, *{arguments!r})"
        code = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); {begin}"
        return subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
        )

    return run


def test_body_is_run_with_its_arguments_and_then_finalizers(run):
    ended = run("bodies:done", 3, "x")
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "3 x\nfinalized\n", "")


def test_thread_that_user_code_has_left_is_not_waited_for(run):
    assert run("bodies:leaves_a_thread").returncode == 0


@pytest.mark.parametrize(
    ("code", "returned", "said"), [(3, 3, ""), (None, 0, ""), ("no data", 1, "no data\n")]
)
def test_exit_of_a_body_is_that_of_the_process(run, code, returned, said):
    ended = run("bodies:exits", code)
    assert (ended.returncode, ended.stderr) == (returned, said)


@pytest.mark.parametrize("body", ["bodies:raises", "bodies:missing", "no_such_module:body"])
def test_error_is_printed_and_ends_the_process_with_1(run, body):
    ended = run(body)
    assert ended.returncode == 1
    assert ended.stderr.startswith("Traceback")


def test_closed_stdout_does_not_hinder_the_end(run):
    assert run("bodies:closes").returncode == 0
