"""How wide help is, and what showing it loads."""

import os
import subprocess
import sys

import pytest

from attestation_agent.main import make_parser
from guest.help_text import DEFAULT_COLUMNS, find_columns


def test_the_environment_says_how_wide_it_is() -> None:
    assert find_columns("123") == 123


@pytest.mark.parametrize("told", ["", "0", "-5", "wide", "1e3", "9" * 5000])
def test_what_is_no_number_of_columns_does_not_count(
    told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(handle: int) -> os.terminal_size:
        raise OSError(25, f"{handle} is no terminal")

    monkeypatch.setattr(os, "get_terminal_size", refuse)
    assert find_columns(told) == DEFAULT_COLUMNS
    monkeypatch.setattr(os, "get_terminal_size", lambda _: os.terminal_size((100, 40)))
    assert find_columns(told) == 100
    monkeypatch.setattr(os, "get_terminal_size", lambda _: os.terminal_size((0, 0)))
    assert find_columns(told) == DEFAULT_COLUMNS


def test_help_is_as_wide_as_the_environment_says(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = {}
    for columns in ("60", "150"):
        monkeypatch.setenv("COLUMNS", columns)
        lines[columns] = make_parser("attestation-agent").format_help().splitlines()
    assert len(lines["60"]) > len(lines["150"])
    assert max(map(len, lines["150"])) <= 150


@pytest.mark.parametrize("root", ["attestation_agent.main", "cdh.main"])
def test_a_parser_of_a_daemon_loads_no_compression(root: str) -> None:
    script = (
        f"import sys, {root} as root\n"
        "root.make_parser('x').parse_args([])\n"
        "assert not {'shutil', 'bz2', 'lzma'} & set(sys.modules)\n"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-c", script], capture_output=True, timeout=60, text=True
    )
    assert done.returncode == 0, done.stderr
