"""Records which numbered checks of docs/spec the tests of this run proved.

A check is proven by `@pytest.mark.spec("page", n, ...)` on a test that passes; one failing test
that names it takes the proof away. `--checklist FILE` writes the record as JSON, with the reasons
of all skipped tests.
"""

import json
from collections import Counter
from pathlib import Path
from typing import Final

import pytest

PROPERTY: Final = "spec"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add `--checklist`."""
    parser.addoption("--checklist", metavar="FILE", help="write the proven spec checks as JSON")


def pytest_configure(config: pytest.Config) -> None:
    """Collect in the process that reports, never in an xdist worker."""
    path = config.getoption("--checklist")
    if path and not hasattr(config, "workerinput"):
        config.pluginmanager.register(Recorder(Path(path)), "checklist-recorder")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the marks of a test into its report, which reaches the reporting process."""
    for item in items:
        for marker in item.iter_markers(PROPERTY):
            page, *numbers = marker.args
            if not isinstance(page, str) or not all(isinstance(n, int) for n in numbers):
                raise pytest.UsageError(f"{item.nodeid}: spec takes a page and numbers")
            item.user_properties.append((PROPERTY, [page, *numbers]))


class Recorder:
    """Collects outcomes and writes them at the end of the session."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._outcomes: dict[str, dict[str, dict[str, set[str]]]] = {}
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
            if name != PROPERTY or not isinstance(value, list):
                continue
            page, *numbers = value
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
        record = {"checks": checks, "skipped": dict(sorted(self._skipped.items()))}
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._path.write_text(json.dumps(record, indent=1) + "\n")
