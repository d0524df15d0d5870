"""The launchers: isolated, whatever the path of the clone."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tools import setup_environment

PATHS = ["/opt/x/bin/python", "/opt/with space/bin/python", "/" + "d" * 200 + "/python"]


@pytest.mark.parametrize("path", PATHS)
def test_the_first_line_fits_every_kernel(path: str) -> None:
    first = setup_environment.shebang(Path(path)).splitlines()[0]
    assert len(os.fsencode(first)) < setup_environment.SHEBANG_LIMIT
    assert first == "#!/bin/sh" or first.endswith(" -I")


@pytest.mark.parametrize("folder", ["short", "with space", "d" * 150])
def test_a_launcher_runs_an_isolated_interpreter(tmp_path: Path, folder: str) -> None:
    python = tmp_path / folder / "python"
    python.parent.mkdir()
    python.symlink_to(sys.executable)
    script = tmp_path / "script"
    body = "import sys\nprint(sys.flags.isolated, sys.argv[1:])\n"
    script.write_text(setup_environment.shebang(python) + body)
    script.chmod(0o755)
    done = subprocess.run([script, "a b", "-h"], capture_output=True, text=True, timeout=60)
    assert done.stdout == "1 ['a b', '-h']\n", done.stderr


def test_every_console_script_of_both_distributions_is_known() -> None:
    names = set(setup_environment.scripts())
    assert {"guest", "attestation-agent", "guest-simulator", "coco_keyprovider"} <= names


def test_the_stamp_changes_with_the_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lock = tmp_path / "lock"
    monkeypatch.setattr(setup_environment, "lock_file", lambda: lock)
    lock.write_text("a==1")
    before = setup_environment.stamp()
    assert before == setup_environment.stamp()
    lock.write_text("a==2")
    assert before != setup_environment.stamp()
