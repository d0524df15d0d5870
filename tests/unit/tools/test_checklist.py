"""The checklist's reading of pages and records."""

from tools import checklist

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
    text = checklist.report([page], record)
    assert "1 of   3  1" in text
    assert "  2. second" in text


def test_numbers_are_written_as_ranges() -> None:
    assert checklist.ranges({1, 2, 3, 7, 9, 10}) == "1-3, 7, 9-10"
    assert checklist.ranges(set()) == "none"


def test_every_page_with_a_checklist_numbers_it_without_a_gap() -> None:
    for page in checklist.load_pages():
        assert list(page.checks) == list(range(1, len(page.checks) + 1)), page.name
