"""The demo: the main job in one process and in three, with and without privilege."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ANOTHER_USER = ["unshare", "--user"]
"""A user namespace without any mapping: another uid, no capability, the same files."""


def run_demo(prefix: list[str], *options: str) -> list[str]:
    """Run it with few files; give the lines that it printed."""
    done = subprocess.run(
        [*prefix, sys.executable, "-m", "tools.demo", "--files", "300", *options],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=110,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.splitlines()


@pytest.mark.slow
@pytest.mark.root
@pytest.mark.mount
@pytest.mark.parametrize("options", [[], ["--one-process"]], ids=["three", "one"])
def test_root_gets_an_overlay_mount_with_owners_and_devices_on_disk(options: list[str]) -> None:
    last = run_demo([], *options)[-1]
    assert "(overlay mount)" in last
    assert "by record only" not in last


@pytest.mark.slow
@pytest.mark.skipif(
    os.geteuid() == 0 and subprocess.run([*ANOTHER_USER, "true"]).returncode != 0,
    reason="root that cannot become another user: no user namespaces",
)
@pytest.mark.parametrize("options", [[], ["--one-process"]], ids=["three", "one"])
def test_without_privilege_the_root_filesystem_is_unpacked_into_the_bundle(
    options: list[str],
) -> None:
    lines = run_demo(ANOTHER_USER if os.geteuid() == 0 else [], *options)
    last = lines[-1]
    assert any(line.strip().startswith("$ curl -s http://127.0.0.1:") for line in lines)
    assert "(unpacked, no mount)" in last
    assert last.startswith("Proven in ")
    assert "by record only" in last
