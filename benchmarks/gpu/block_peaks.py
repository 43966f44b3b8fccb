"""How much memory each block of a job takes where it computes, beside what the plan says of it.

    python -m benchmarks.gpu.block_peaks FLAGS OF THE MAIN JOB

One block after another in this process, two steps each, on noise as the block below would send it.
On a GPU it is what torch had of it at most; on the CPU, by how much this process grew: rough for a
small block, and of use only under MALLOC_MMAP_THRESHOLD_ (see benchmarks.memory). Prints a list of
JSON.
"""

import gc
import json
import re
import sys
from pathlib import Path
from typing import Any

import torch

from launch.config_file import parse
from launch.environment import Environment
from launch.gpus import see_only, visible_gpus
from launch.job import LocalLearningJob
from launch.planning.memory import block_memory
from launch.resolve import resolve
from models.block import LocalBlock
from runtime.block import Payload
from runtime.core.plan import Stream

STEPS = 2  # the second with the optimizer's state of the first
STATUS, FORGET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def peaks(flags: list[str]) -> list[dict[str, int]]:
    """Of each block, lowest first, the bytes predicted and measured."""
    config = parse(flags, prog="block_peaks")
    is_cuda = config.device == "cuda"
    if is_cuda:
        see_only(visible_gpus(), 0)  # before CUDA is asked for anything
    job = LocalLearningJob(resolve(config, environment=Environment.from_process()))
    blocks = job.resolved.partition.blocks
    found = []
    for k, block in enumerate(blocks):
        took = block_memory(job.resolved, block)
        predicted = took.on_gpu if is_cuda else took.weights + took.activations
        before = _begin(is_cuda=is_cuda)
        train(job.build_block(k), None if k == 0 else noise(job, k))
        found.append({"predicted": predicted, "measured": _most(is_cuda=is_cuda) - before})
    return found


def noise(job: LocalLearningJob, k: int) -> Payload:
    """What the block below would send."""
    activation, labels = (spec.empty() for spec in job.specs(k - 1)[Stream.ACTIVATION])
    return activation.normal_(), labels.zero_()


def train(block: LocalBlock, incoming: Payload | None) -> None:
    """Some steps without neighbours."""
    for step in range(STEPS):
        block.forward(step, incoming)
        block.update(step)
        block.apply(step, None, None)


def _begin(*, is_cuda: bool) -> int:
    """What is there now; the most from here on is to be measured."""
    gc.collect()
    if is_cuda:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated()
    FORGET.write_text("5")  # the most resident so far
    return _most(is_cuda=False)


def _most(*, is_cuda: bool) -> int:
    if is_cuda:
        return torch.cuda.max_memory_allocated()
    found = re.search(r"^VmHWM:\s+(\d+) kB", STATUS.read_text(), re.MULTILINE)
    assert found is not None, "Linux says what was most resident"
    return int(found[1]) * 1024


def main() -> None:
    """Print them."""
    told: list[dict[str, Any]] = peaks(sys.argv[1:])
    print(json.dumps(told))


if __name__ == "__main__":
    main()
