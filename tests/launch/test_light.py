"""The keeper starts at once because what it imports is light."""

import subprocess
import sys


def test_keeper_imports_no_torch_zmq_or_numpy():
    code = (
        "import sys, launch.program, runtime.keeper.keeper, launch.config\n"
        "import runtime.state.status_page, runtime.keeper.checkpoint_thread\n"
        "print(sorted({'torch', 'zmq', 'numpy', 'sklearn'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.strip() == "[]"
