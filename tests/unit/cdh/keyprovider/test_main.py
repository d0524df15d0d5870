"""The command `coco_keyprovider` as a process."""

import asyncio
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from support.transports import eventually

PEM = """-----BEGIN PRIVATE KEY-----
MC4CAQAwBQYDK2VwBCIEIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f
-----END PRIVATE KEY-----
"""


@pytest.fixture
def command(repository: Path) -> list[str]:
    script = (
        f"import sys; sys.path.insert(0, {str(repository)!r}); "
        "from cdh.keyprovider.main import main; main()"
    )
    return [sys.executable, "-I", "-c", script]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def run(command: list[str], *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*command, *arguments], capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL
    )


@contextmanager
def started(command: list[str], *arguments: str) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [*command, *arguments], stderr=subprocess.PIPE, text=True, stdin=subprocess.DEVNULL
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def test_it_serves_until_a_signal_and_ends_with_status_0(command: list[str]) -> None:
    port = free_port()
    with started(command, "--socket", f"127.0.0.1:{port}") as process:
        assert process.stderr is not None
        while "ready" not in process.stderr.readline():
            assert process.poll() is None
        with socket.create_connection(("127.0.0.1", port), timeout=10):
            pass
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0


@pytest.mark.parametrize(
    ("arguments", "status", "text"),
    [
        ([], 2, "required: -s/--socket"),
        (["-s", "127.0.0.1:0", "--bogus"], 2, "unrecognized"),
        (["-s", "localhost:50000"], 1, "--socket"),
        (["-s", "127.0.0.1:0", "--kbs", "not a url"], 1, "KBS URL"),
        (["-s", "127.0.0.1:0", "--kbs", "http://h", "-a", "/nonexistent"], 1, "cannot be read"),
        (["-s", "127.0.0.1:0", "--kbs", "http://h", "-a", "/dev/null"], 1, "no Ed25519 key"),
    ],
)
def test_a_wrong_start_says_why_in_one_line(
    command: list[str], arguments: list[str], status: int, text: str
) -> None:
    done = run(command, *arguments)
    assert done.returncode == status
    assert text in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


def test_a_port_that_is_taken_ends_the_start(command: list[str]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        done = run(command, "-s", f"127.0.0.1:{taken.getsockname()[1]}")
    assert done.returncode == 1
    assert "cannot listen" in done.stderr


def test_half_of_a_registration_is_none_and_is_said(command: list[str], tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_text(PEM)
    with started(command, "-s", "127.0.0.1:0", "-a", str(key)) as process:
        assert process.stderr is not None
        lines = ""
        while "ready" not in lines:
            lines += process.stderr.readline()
            assert process.poll() is None
    assert "no registration" in lines


def test_the_version_and_the_help_are_printed(command: list[str]) -> None:
    assert re.fullmatch(r"coco_keyprovider \S+\n", run(command, "-V").stdout)
    text = run(command, "-h").stdout
    for flag in ("--socket", "--auth-private-key", "--kbs", "--daemon", "--kbs-cert", "--role"):
        assert flag in text


def test_in_the_background_it_writes_its_files_and_the_command_waits_for_it(
    command: list[str], tmp_path: Path
) -> None:
    port = free_port()
    done = run(command, "-s", f"127.0.0.1:{port}", "-d", "--daemon-dir", str(tmp_path / "run"))
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    number = int((tmp_path / "run" / "coco_keyprovider.pid").read_text())
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=10):
            pass
        if os.geteuid() == 0:  # nobody else may look into a hardened process
            assert os.readlink(f"/proc/{number}/cwd") == str(tmp_path / "run")
        errors = tmp_path / "run" / "coco_keyprovider.err"  # the line follows the readiness
        asyncio.run(eventually(lambda: "ready" in errors.read_text()))
        assert (tmp_path / "run" / "coco_keyprovider.out").exists()
    finally:
        os.kill(number, signal.SIGKILL)


def test_a_background_start_that_fails_is_told_by_the_status(
    command: list[str], tmp_path: Path
) -> None:
    arguments = ["-s", "127.0.0.1:0", "--kbs", "nothing", "-d", "--daemon-dir", str(tmp_path)]
    assert run(command, *arguments).returncode == 1
    assert "KBS URL" in (tmp_path / "coco_keyprovider.err").read_text()
