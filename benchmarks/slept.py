"""One run of slept blocks, for benchmarks.throughput: prints nothing but what the runtime does.

python -m benchmarks.slept CONFIG_JSON RUN_DIR
"""

import json
import sys
import time
from functools import partial

from runtime.keeper import Keeper
from runtime.program import Program
from runtime.testing.slept import SleptConfig, load_slept_job


def main(argv: list[str]) -> int:
    """Run the job of `SleptConfig` fields given as JSON into a directory."""
    config = SleptConfig(**json.loads(argv[0]))
    program = Program(
        resolve=partial(SleptConfig.to_text, config),
        load=load_slept_job,
        preload=("runtime.coordinator", "runtime.worker", "runtime.testing.slept"),
        run_dir=argv[1],
        name="slept",
        run_name="slept",
        started_t=time.time(),
    )
    return Keeper(program, rank=None).run()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
