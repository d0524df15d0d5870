"""What a smoke test found: lines of the console to results, results to a verdict. Sans-I/O.

Source: docs/spec/podvm-image.md 17.
"""

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

_LINE: Final = re.compile(r"SMOKE (\S+) (ok|fail) ?([^\r\n]*)")


class Status(StrEnum):
    """Of one assertion."""

    PASSED = "passed"
    FAILED = "FAILED"
    NOT_RUN = "not run"


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What one probe said.

    Attributes:
        good: it holds.
        detail: for people.
    """

    good: bool
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Assertion:
    """One row of the specification's table.

    Attributes:
        number: such as `S3`.
        what: it says, in short.
        needs: `boot.identifier` of every result that it stands on.
    """

    number: str
    what: str
    needs: tuple[str, ...]


def parse(console: str) -> dict[str, Result]:
    """The results on a console; of two with one name, a failure stays."""
    found: dict[str, Result] = {}
    for match in _LINE.finditer(console):
        name, status, detail = match.groups()
        if name not in found or found[name].good:
            found[name] = Result(good=status == "ok", detail=detail)
    return found


def judge(
    assertion: Assertion, results: Mapping[str, Result], skipped: Collection[str] = ()
) -> tuple[Status, str]:
    """The status of a row, and why; a result that did not come is a failure.

    Args:
        assertion: the row.
        results: by `boot.identifier`.
        skipped: boots that nobody asked for.
    """
    absent = [name for name in assertion.needs if name.split(".")[0] in skipped]
    bad = []
    for name in assertion.needs:
        if name in absent:
            continue
        if name not in results:
            bad.append(f"{name}: no result")
        elif not results[name].good:
            bad.append(f"{name}: {results[name].detail}")
    if bad:
        return Status.FAILED, "; ".join(bad)
    if absent:
        return Status.NOT_RUN, ", ".join(absent)
    return Status.PASSED, ""


def render(
    assertions: Sequence[Assertion],
    results: Mapping[str, Result],
    skipped: Collection[str] = (),
) -> tuple[list[str], bool]:
    """The table, line by line, and whether nothing failed.

    Results that no row needs are listed and must be good too.
    """
    lines = []
    good = True
    for assertion in assertions:
        status, why = judge(assertion, results, skipped)
        good = good and status is not Status.FAILED
        lines.append(f"{assertion.number:<5}{status:<16} {assertion.what}")
        if why:
            lines.append(f"{'':22}{why}")
    named = {name for assertion in assertions for name in assertion.needs}
    for name, result in results.items():
        if name not in named:
            good = good and result.good
            lines.append(f"     {'ok' if result.good else 'FAILED':<16} {name}: {result.detail}")
    return lines, good
