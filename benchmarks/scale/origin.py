"""Of which machine and commit the figures are that a simulation takes.

Owns what a simulated record says of them, and how that is told. The figures themselves are
benchmarks.scale.machine_probe's.
"""

from collections.abc import Mapping, Sequence
from typing import Any

KEY = "figures_of"  # in a simulated record
FACTS = ("machine", "cores", "commit")
MEASURE = "python -m benchmarks.scale --validate measures this one"


def origin(validation: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Which machine the last figures among a validation's records are of; empty if there are none,
    so that usual ones are taken."""
    headers = [record.get("header", {}) for record in validation if "figures" in record]
    return {fact: headers[-1].get(fact, "not recorded") for fact in FACTS} if headers else {}


def origin_line(records: Sequence[Mapping[str, Any]]) -> str:
    """Whose figures these records were simulated by, and whether that is the machine that their
    header names."""
    found: Mapping[str, str] | None = next((r[KEY] for r in records if KEY in r), None)
    if found is None:
        return "simulated by the figures of a machine that was not recorded"
    if not found:
        return f"simulated by usual figures, of no machine that was measured; {MEASURE}"
    of = f"{found['machine']}, {found['cores']} cores (commit {found['commit']})"
    here = next(record["header"] for record in records if KEY in record)
    if all(found[fact] == here[fact] for fact in ("machine", "cores")):
        return f"simulated by the figures of this machine, {of}"
    return (
        f"simulated by the figures of ANOTHER machine, {of}; the header's is"
        f" {here['machine']}, {here['cores']} cores: {MEASURE}"
    )
