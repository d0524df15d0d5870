"""What the test runner says at its end."""

import json
from pathlib import Path

from tools import locks, run_tests


def test_the_last_words_group_what_was_skipped(tmp_path: Path) -> None:
    record = tmp_path / "record.json"
    record.write_text(json.dumps({"checks": {}, "skipped": {"[vm] no qemu": 3, "no x": 1}}))
    lines = run_tests.could_not_run(record).splitlines()
    assert lines == ["Could not run here: 4", "     3  [vm] no qemu", "     1  no x"]


def test_a_run_without_skips_says_so(tmp_path: Path) -> None:
    record = tmp_path / "record.json"
    record.write_text(json.dumps({"checks": {}, "skipped": {}}))
    assert "nothing was skipped" in run_tests.could_not_run(record)


def test_a_run_that_died_is_no_success(tmp_path: Path) -> None:
    assert "ended before" in run_tests.could_not_run(tmp_path / "absent.json")


def test_the_locks_hold_pins_and_hashes_only(repository: Path) -> None:
    files = sorted((repository / "requirements").glob("py3*.txt"))
    assert [file.stem for file in files] == ["py" + m.replace(".", "") for m in locks.MINORS]
    for file in files:
        assert locks.FOREIGN.search(file.read_text()) is None
