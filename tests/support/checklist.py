"""Records which numbered checks of docs/spec the tests of this run proved.

A check is proven by `@pytest.mark.spec("page", n, ...)` on a test that passes; one failing test
that names it takes the proof away; with `built=True` it is proven on built data unless the run has
the real documents (`support.documents`). `--checklist FILE` writes the record as JSON, with the
reasons of all skipped tests.
"""

import json
from collections import Counter
from pathlib import Path
from typing import Final

import pytest

PROPERTY: Final = "spec"
BUILT: Final = "built"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add `--checklist`."""
    parser.addoption("--checklist", metavar="FILE", help="write the proven spec checks as JSON")


def pytest_configure(config: pytest.Config) -> None:
    """Collect in the process that reports, never in an xdist worker."""
    path = config.getoption("--checklist")
    if path and not hasattr(config, "workerinput"):
        config.pluginmanager.register(Recorder(Path(path)), "checklist-recorder")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Put the marks of a test into its report, which reaches the reporting process."""
    has_documents = bool(config.getoption("--real-documents", default=None))
    for item in items:
        for marker in item.iter_markers(PROPERTY):
            page, *numbers = marker.args
            if not isinstance(page, str) or not all(isinstance(n, int) for n in numbers):
                raise pytest.UsageError(f"{item.nodeid}: spec takes a page and numbers")
            if marker.kwargs not in ({}, {BUILT: True}):
                raise pytest.UsageError(f"{item.nodeid}: spec takes built=True and no other name")
            item.user_properties.append((PROPERTY, [page, *numbers]))
            if marker.kwargs and not has_documents:
                item.user_properties.append((BUILT, [page, *numbers]))


class Recorder:
    """Collects outcomes and writes them at the end of the session."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._outcomes: dict[str, dict[str, dict[str, set[str]]]] = {}
        self._built: dict[str, set[int]] = {}
        self._skipped: Counter[str] = Counter()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Note a call's outcome, or what went wrong before and after it."""
        if report.when != "call" and report.passed:
            return
        xfailed = hasattr(report, "wasxfail")
        outcome = "skipped" if xfailed else report.outcome
        if report.skipped and not xfailed and isinstance(report.longrepr, tuple):
            self._skipped[str(report.longrepr[2]).removeprefix("Skipped: ")] += 1
        for name, value in report.user_properties:
            if not isinstance(value, list):
                continue
            page, *numbers = value
            if name == BUILT:
                self._built.setdefault(page, set()).update(numbers)
            if name != PROPERTY:
                continue
            for number in numbers:
                checks = self._outcomes.setdefault(page, {}).setdefault(str(number), {})
                checks.setdefault(outcome, set()).add(report.nodeid)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """Note a module that skips itself as a whole."""
        if report.skipped and isinstance(report.longrepr, tuple):
            reason = str(report.longrepr[2]).removeprefix("Skipped: ")
            self._skipped[f"{reason} (all of {report.nodeid})"] += 1

    def pytest_sessionfinish(self) -> None:
        """Write the record."""
        checks = {
            page: {
                number: {outcome: sorted(names) for outcome, names in sorted(outcomes.items())}
                for number, outcomes in sorted(numbers.items(), key=lambda item: int(item[0]))
            }
            for page, numbers in sorted(self._outcomes.items())
        }
        built = {page: sorted(numbers) for page, numbers in sorted(self._built.items())}
        skipped = dict(sorted(self._skipped.items()))
        record = {"checks": checks, "built": built, "skipped": skipped}
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._path.write_text(json.dumps(record, indent=1) + "\n")
