"""A command that does one thing: its result, its failure, its interruption."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from guest.errors import PeerError
from guest.tool import explain

ROOT = Path(__file__).resolve().parents[3]

SCRIPT = """
import asyncio, os, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # who runs the tests may ignore it
sys.path.insert(0, {root!r})
from guest.errors import InvalidInputError, PeerError
from guest.tool import finish

async def say():
    return "result"

async def nothing():
    return ""

async def fail():
    try:
        raise OSError("the\\nreason")
    except OSError as error:
        raise PeerError("it failed") from error

async def wait():
    print("waiting", file=sys.stderr, flush=True)
    await asyncio.sleep(60)
    return "late"

def read(environment):
    print("reading", file=sys.stderr, flush=True)
    os.read(0, 1)
    return say()

def refuse(environment):
    raise InvalidInputError("no input")

def plain(work):
    return lambda environment: work()

WORK = {{"say": plain(say), "nothing": plain(nothing), "fail": plain(fail), "wait": plain(wait),
         "read": read, "refuse": refuse}}
sys.exit(finish("tool", WORK[sys.argv[1]], dict(os.environ)))
"""


def start(work: str, **names: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-I", "-c", SCRIPT.format(root=str(ROOT)), work],
        env={"PATH": os.environ["PATH"], **names}, text=True, stdin=subprocess.PIPE,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def run(work: str, **names: str) -> tuple[int, str, str]:
    process = start(work, **names)
    out, err = process.communicate(timeout=60)
    return process.returncode, out, err


@pytest.mark.parametrize(
    ("work", "expected"),
    [
        ("say", (0, "result\n", "")),
        ("nothing", (0, "", "")),
        ("fail", (1, "", "tool: it failed: OSError: the reason\n")),
        ("refuse", (1, "", "tool: no input\n")),
    ],
)
def test_a_result_is_alone_on_standard_output_and_a_failure_one_line_on_standard_error(
    work: str, expected: tuple[int, str, str]
) -> None:
    assert run(work) == expected


def test_an_unusable_filter_is_a_failure_of_one_line() -> None:
    status, out, err = run("say", RUST_LOG="a b=c")
    assert (status, out) == (1, "")
    assert err.startswith("tool: RUST_LOG is present but invalid")


def wait_until_asleep(pid: int) -> None:
    """Wait until it waits in the kernel: a signal just before `read` would not end the call."""
    limit = time.monotonic() + 60
    while Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] != "S":
        assert time.monotonic() < limit
        time.sleep(0.01)


@pytest.mark.parametrize(
    ("work", "word", "number"),
    [
        ("wait", "waiting", signal.SIGINT),
        ("wait", "waiting", signal.SIGTERM),
        ("wait", "waiting", signal.SIGHUP),
        ("read", "reading", signal.SIGINT),
    ],
)
def test_a_signal_ends_a_wait_with_one_line(work: str, word: str, number: int) -> None:
    with start(work) as process:
        try:
            assert process.stderr is not None
            assert process.stderr.readline() == f"{word}\n"
            wait_until_asleep(process.pid)
            process.send_signal(number)
            process.wait(timeout=60)
            err = process.stderr.read()
        finally:
            process.kill()
    assert (process.returncode, err) == (1, "tool: interrupted\n")


def test_an_output_that_nobody_reads_is_a_failure_without_a_traceback() -> None:
    process = start("read")
    assert process.stdout is not None
    assert process.stdin is not None
    assert process.stderr is not None
    process.stdout.close()
    process.stdin.write("x")
    process.stdin.close()
    err = process.stderr.read()
    process.stderr.close()
    assert process.wait(timeout=60) == 1
    assert err == "reading\ntool: standard output cannot be written: Broken pipe\n"


def test_an_explanation_repeats_no_cause_and_has_a_limit() -> None:
    error = PeerError("outer: inner")
    error.__cause__ = PeerError("inner")
    assert explain(error) == "outer: inner"
    assert len(explain(PeerError("x" * 10_000))) == 4000
