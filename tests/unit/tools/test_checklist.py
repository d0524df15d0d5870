"""The checklist's reading of pages and records."""

import pytest

from tools import checklist
from tools.foreign_checks import NEEDS

PAGE = """# Title

## 3. Other
1. not a check

## 9. Conformance checklist

Client
1. first
2. second

Server
3. third
## 10. Where upstream is weak
4. no check
"""


def test_only_the_numbered_lines_of_the_checklist_are_checks() -> None:
    page = checklist.parse_page("page", PAGE)
    assert page.checks == {1: "first", 2: "second", 3: "third"}


def test_a_check_is_proven_by_a_pass_without_a_failure() -> None:
    page = checklist.parse_page("page", PAGE)
    record = {
        "page": {
            "1": {"passed": ["a"]},
            "2": {"passed": ["a"], "failed": ["b"]},
            "3": {"skipped": ["c"]},
            "77": {"passed": ["a"]},
        }
    }
    assert checklist.proven(page, record) == {1}
    text = checklist.report([page], record, {})
    assert "1 of   3  1" in text
    assert "  2. second" in text
    assert "built data" not in text


def test_a_second_run_adds_proofs_and_its_failures_take_them_away() -> None:
    page = checklist.parse_page("page", PAGE)
    here: checklist.Checks = {"page": {"1": {"passed": ["a"]}, "2": {"passed": ["b"]}}}
    vm: checklist.Checks = {"page": {"2": {"failed": ["c"]}, "3": {"passed": ["d"]}}, "other": {}}
    whole = checklist.merged(here, vm)
    assert checklist.proven(page, whole) == {1, 3}
    assert whole["page"]["2"] == {"passed": ["b"], "failed": ["c"]}
    assert here["page"]["2"] == {"passed": ["b"]}


def test_built_data_is_named_and_foreign_programs_are_named_and_not_counted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    page = checklist.parse_page("page", PAGE)
    monkeypatch.setattr(checklist, "NEEDS", {"page": {2: "a Daemon", 3: "a Client"}})
    record = {"page": {"1": {"passed": ["a"]}, "3": {"passed": ["a"]}}}
    text = checklist.report([page], record, {"page": [1, 2]})
    assert "2 of   2  1, 3" in text
    assert "real files\n  page: 1\n" in text
    assert text.endswith("not counted\n  page 2: needs a Daemon")
    assert "2. second" not in text


def test_foreign_checks_are_checks_of_their_pages() -> None:
    pages = {page.name: page.checks for page in checklist.load_pages()}
    for name, needs in NEEDS.items():
        assert set(needs) <= set(pages[name])


def test_numbers_are_written_as_ranges() -> None:
    assert checklist.ranges({1, 2, 3, 7, 9, 10}) == "1-3, 7, 9-10"
    assert checklist.ranges(set()) == "none"


def test_every_page_with_a_checklist_numbers_it_without_a_gap() -> None:
    for page in checklist.load_pages():
        assert list(page.checks) == list(range(1, len(page.checks) + 1)), page.name
