"""What a machine lacks for `python -m benchmarks.gpu`, and how to bring it there without a network.

Stands on Python alone, for that machine may have nothing else. Of what the project requires it
leaves out scikit-learn, the largest: images are synthetic here, and nothing is evaluated.
"""

import configparser
import platform
import re
import sys
from importlib import metadata
from pathlib import Path

SETUP_CFG = Path(__file__).resolve().parents[2] / "setup.cfg"
SPARED = ("scikit-learn",)
TESTED_BY = ("pytest", "pytest-timeout")
PLATFORMS = ("manylinux_2_28", "manylinux_2_27", "manylinux_2_17", "manylinux2014")


def requirements() -> list[str]:
    """What the script needs, as pip takes it: "torch>=2.11,<2.14"."""
    config = configparser.ConfigParser()
    config.read(SETUP_CFG)
    wanted = config["options"]["install_requires"].split()
    return [line for line in wanted if _name(line) not in SPARED] + list(TESTED_BY)


def missing() -> list[str]:
    """Those that are not installed here, whatever their version."""
    return [requirement for requirement in requirements() if not _is_here(_name(requirement))]


def print_needs() -> None:
    """Print what is missing, and the commands that bring it."""
    lacking = missing()
    if not lacking:
        print("this machine lacks nothing for python -m benchmarks.gpu")
        return
    machine = platform.machine()
    python = ".".join(map(str, sys.version_info[:2]))
    quoted = " ".join(f"'{requirement}'" for requirement in lacking)
    platforms = " ".join(f"--platform {name}_{machine}" for name in PLATFORMS)
    download = f"--only-binary :all: --python-version {python} {platforms}"
    print(f"this machine lacks {' '.join(map(_name, lacking))}. Where there is a network:")
    print(f"    pip download -d wheels {download} {quoted}")
    print("and here, beside that folder (numpy and what else is here need not be brought):")
    print(f"    pip install --no-index --find-links wheels {quoted}")


def _name(requirement: str) -> str:
    return re.split(r"[<>=!~\[ ;]", requirement, maxsplit=1)[0]


def _is_here(name: str) -> bool:
    try:
        metadata.version(name)
    except metadata.PackageNotFoundError:
        return False
    return True
