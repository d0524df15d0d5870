"""Which numbered checks of docs/spec a passing test proves, and which none does.

Every page ends in a "Conformance checklist" of numbered lines. A test says which of them it
proves with `@pytest.mark.spec("page", n, ...)`; a whole test run records what passed.
`built=True` marks what was proven on built data, for want of the vendors' files; what needs
somebody else's program is named and not counted (`tools.foreign_checks`).
"""

import argparse
import json
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tools import run_tests
from tools.foreign_checks import NEEDS

ROOT: Final = Path(__file__).resolve().parent.parent
Checks = dict[str, dict[str, dict[str, list[str]]]]
"""Page to numbers to outcomes to tests."""

PAGES: Final = ROOT / "docs" / "spec"
SOURCES: Final = (
    "guest",
    "attestation_agent",
    "cdh",
    "image_pull",
    "api_server_rest",
    "simulator",
    "tests",
    "docs/spec",
)
MACHINES: Final = {
    "make vm-test": ROOT / "build" / "vm-checklist.json",
    "make image-test": ROOT / "build" / "image-checklist.json",
}
"""What booted machines proved; counted as long as it is newer than the sources."""

IMAGE_SOURCES: Final = ("podvm-image/podvm", "podvm-image/tree", "podvm-image/initrd")
"""What a machine's record depends on besides."""

HEADING: Final = re.compile(r"^## (?:[0-9.]+ )?Conformance checklist\s*$")
ITEM: Final = re.compile(r"^([0-9]+)\. (.+)$")
TEXT_WIDTH: Final = 110


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """The checklist of one page: number to text."""

    name: str
    checks: dict[int, str]


def parse_page(name: str, text: str) -> Page:
    """Read a page's checklist; a page without one has no checks."""
    checks: dict[int, str] = {}
    inside = False
    for line in text.splitlines():
        if line.startswith("## "):
            inside = HEADING.match(line) is not None
        match = ITEM.match(line)
        if inside and match is not None:
            checks[int(match[1])] = match[2]
    return Page(name=name, checks=checks)


def load_pages() -> list[Page]:
    """All pages that have a checklist, by name."""
    pages = [parse_page(path.stem, path.read_text("utf-8")) for path in sorted(PAGES.glob("*.md"))]
    return [page for page in pages if page.checks]


def is_stale(record: Path, more: Sequence[str] = ()) -> bool:
    """True when there is no record or a source is newer.

    Args:
        record: the file.
        more: further folders whose every file is a source.
    """
    if not record.exists():
        return True
    made = record.stat().st_mtime
    for folder in SOURCES:
        for path in (ROOT / folder).rglob("*"):
            if path.suffix in {".py", ".md", ".json", ".proto"} and path.stat().st_mtime > made:
                return True
    found = (path for folder in more for path in (ROOT / folder).rglob("*"))
    return any(
        path.is_file() and path.suffix != ".pyc" and path.stat().st_mtime > made for path in found
    )


def merged(record: Checks, more: Checks) -> Checks:
    """What two runs proved together; a failure in one is a failure."""
    whole: Checks = {}
    for page in sorted({*record, *more}):
        for found in (record.get(page, {}), more.get(page, {})):
            for number, outcomes in found.items():
                together = whole.setdefault(page, {}).setdefault(number, {})
                for outcome, names in outcomes.items():
                    together[outcome] = sorted({*together.get(outcome, []), *names})
    return whole


def proven(page: Page, record: Checks) -> set[int]:
    """The checks that a passing test names and no failing one does."""
    outcomes = record.get(page.name, {})
    return {
        number
        for number in page.checks
        if outcomes.get(str(number), {}).get("passed")
        and not outcomes.get(str(number), {}).get("failed")
    }


def ranges(numbers: set[int]) -> str:
    """Numbers as a reader writes them: 1-4, 7, 9-12."""
    parts: list[list[int]] = []
    for number in sorted(numbers):
        if parts and parts[-1][-1] == number - 1:
            parts[-1][1:] = [number]
        else:
            parts.append([number])
    return ", ".join("-".join(map(str, part)) for part in parts) or "none"


def foreign(page: Page, have: set[int]) -> dict[int, str]:
    """The unproven checks that need somebody else's program, and which."""
    return {number: what for number, what in NEEDS.get(page.name, {}).items() if number not in have}


def report(
    pages: list[Page],
    record: Checks,
    built: Mapping[str, Sequence[int]],
) -> str:
    """The table, what was proven on built data, then every check that nothing proves.

    Args:
        pages: all pages.
        record: page to numbers to outcomes to tests.
        built: page to the numbers that were proven on built data.
    """
    lines = [f"{'page':28} {'proven':>9}   which"]
    total = done = 0
    for page in pages:
        have = proven(page, record)
        count = len(page.checks) - len(foreign(page, have))
        total, done = total + count, done + len(have)
        lines.append(f"{page.name:28} {len(have):4} of {count:3}  {ranges(have)}")
    lines.append(f"{'all':28} {done:4} of {total:3}")
    lines += _on_built_data(pages, record, built)
    for page in pages:
        have = proven(page, record)
        missing = set(page.checks) - have - set(foreign(page, have))
        if missing:
            lines += ["", f"{page.name}: proven by no passing test"]
        for number in sorted(missing):
            text = page.checks[number]
            short = text if len(text) <= TEXT_WIDTH else text[: TEXT_WIDTH - 1] + "…"
            lines.append(f"  {number:3}. {short}")
    needed = [
        (page, *item) for page in pages for item in foreign(page, proven(page, record)).items()
    ]
    if needed:
        lines += ["", "needs a program of another project, not counted"]
        lines += [f"  {page.name} {number}: needs {what}" for page, number, what in needed]
    return "\n".join(lines)


def _on_built_data(
    pages: list[Page],
    record: Checks,
    built: Mapping[str, Sequence[int]],
) -> list[str]:
    """The checks whose proof would be better with the vendors' files."""
    shown = [
        f"  {page.name}: {ranges(which)}"
        for page in pages
        if (which := set(built.get(page.name, ())) & proven(page, record))
    ]
    if not shown:
        return []
    return [
        "",
        "proven on built data; make conformance FIXTURES=DIR runs them on real files",
        *shown,
    ]


def main() -> int:
    """Print the table from the last whole test run; without a fresh one, run the tests first."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--last", action="store_true", help="the last record, however old")
    options = parser.parse_args()
    record = run_tests.RECORD
    if is_stale(record) and not (options.last and record.exists()):
        why = "is older than the sources" if record.exists() else "is not there"
        print(f"The record of the last test run {why}: running the tests.", flush=True)
        run_tests.run([], record, [])
    else:
        print("From the record of the last whole test run.")
    if not record.exists():
        print("The tests left no record.")
        return 1
    found = json.loads(record.read_text())
    checks = found["checks"]
    for command, machine in MACHINES.items():
        if machine.exists() and (options.last or not is_stale(machine, IMAGE_SOURCES)):
            print(f"With what {command} proved.")
            checks = merged(checks, json.loads(machine.read_text())["checks"])
    print(report(load_pages(), checks, found.get("built", {})))
    return 0


if __name__ == "__main__":
    sys.exit(main())
