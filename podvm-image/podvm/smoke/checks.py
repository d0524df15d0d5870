"""Checks of the specification's list, and the results of the smoke test that prove them. Sans-I/O.

Only checks that these results prove as they are worded stand here.

Source: docs/spec/podvm-image.md 19.
"""

from collections.abc import Mapping, Sequence
from typing import Final

from podvm.smoke.table import Result

PAGE: Final = "podvm-image"

CHECKS: Final[Mapping[int, Sequence[str]]] = {
    16: ("cloud.S9.image",),
    28: ("cloud.S3", "cloud.S6.again"),
    29: ("contents.policy", "cloud.policy"),
    31: ("cloud.S8", "cloud.S13", "plain.S8"),
    32: ("cloud.S13", "contents.smoke"),
    33: ("cloud.S1", "cloud.S3"),
    34: ("hash.S2", "data.S2"),
    35: ("cloud.S3", "plain.S3", "production.evidence"),
    36: ("contents.phases", "cloud.S3"),
    37: ("cloud.S11", "cloud.S11.end", "disk.S11", "plain.S11", "cloud.verify"),
    40: ("build.S18", "build.extension"),
    41: ("contents.bytecode", "cloud.S12"),
    42: ("contents.absent", "cloud.S1", "cloud.writable"),
    43: ("contents.wheels", "contents.times"),
    44: ("cloud.S14.agent",),
    45: ("cloud.S14.agent",),
    46: ("cloud.S14.rest",),
    47: ("plain.S19.answer",),
    48: ("cloud.memory",),
    49: ("cloud.S20", "cloud.S8.debug", "cloud.S9.debug"),
    50: ("contents.debug",),
}
"""Number to results by `boot.identifier`; all of them must be good."""


def record(
    checks: Mapping[int, Sequence[str]], results: Mapping[str, Result]
) -> dict[str, dict[str, dict[str, list[str]]]]:
    """The checks in the form of `tools.checklist`: page, number, outcome, names.

    A check with a result that did not come is left out; one with a bad result has failed.
    """
    found: dict[str, dict[str, list[str]]] = {}
    for number, needs in checks.items():
        if not all(name in results for name in needs):
            continue
        outcome = "passed" if all(results[name].good for name in needs) else "failed"
        found[str(number)] = {outcome: [f"image-test {name}" for name in needs]}
    return {PAGE: found}
