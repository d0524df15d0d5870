"""Other programs: their environment, limits and ends; this process: private."""

import asyncio
import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from guest.deadline import Deadline
from guest.errors import DeadlineError, LimitError, PlatformError
from guest.process import find_program, run_program
from guest.secret import Secret


def soon() -> Deadline:
    return Deadline.after(30)


async def test_a_program_gets_its_input_and_gives_its_output_and_status() -> None:
    script = "cat; echo wrong >&2; exit 3"
    done = await run_program(["sh", "-c", script], deadline=soon(), stdin=Secret(b"key"))
    assert (done.status, done.stdout, done.stderr) == (3, b"key", b"wrong\n")
    with pytest.raises(PlatformError, match=r"^sh: exit status 3: wrong$"):
        done.verify_success()


async def test_a_program_gets_path_and_locale_and_what_the_call_names_only() -> None:
    done = await run_program(["env"], deadline=soon(), env={"A": "b"})
    names = sorted(line.split(b"=")[0] for line in done.stdout.splitlines())
    assert names == [b"A", b"LC_ALL", b"PATH"]
    done.verify_success()


async def test_a_program_inherits_no_descriptor() -> None:
    reader, writer = os.pipe()
    os.set_inheritable(writer, True)
    try:
        done = await run_program(["ls", "/proc/self/fd"], deadline=soon())
    finally:
        os.close(reader)
        os.close(writer)
    assert str(writer).encode() not in done.stdout.split()


async def test_a_program_that_takes_too_long_is_ended_with_its_children() -> None:
    script = "sleep 1000 & echo $!; wait"
    with pytest.raises(DeadlineError, match="no time left for program sh"):
        await run_program(["sh", "-c", f"({script}) > /dev/null"], deadline=Deadline.after(0.3))


async def test_nothing_is_left_of_a_program_whose_caller_was_cancelled(short_tmp: Path) -> None:
    note = short_tmp / "pid"
    script = f"echo $$ > {note}.new; mv {note}.new {note}; exec sleep 1000"
    async with asyncio.TaskGroup() as group:
        work = group.create_task(run_program(["sh", "-c", script], deadline=soon()))
        while not note.exists():
            await asyncio.sleep(0.01)
        work.cancel()
    pid = int(note.read_text())
    assert not Path(f"/proc/{pid}").exists()


async def test_a_program_that_writes_too_much_is_ended() -> None:
    with pytest.raises(LimitError, match="program yes wrote more than 1000 bytes"):
        await run_program(["yes"], deadline=soon(), max_output=1000)


async def test_a_program_that_does_not_read_its_input_is_no_error() -> None:
    done = await run_program(["true"], deadline=soon(), stdin=b"x" * 1_000_000)
    assert done.status == 0


async def test_a_signal_is_told_from_a_status() -> None:
    done = await run_program(["sh", "-c", "kill -9 $$"], deadline=soon())
    with pytest.raises(PlatformError, match=r"^sh: signal 9$"):
        done.verify_success()


async def test_a_program_that_is_not_there_is_named() -> None:
    with pytest.raises(PlatformError, match="program no-such-program is not installed"):
        await run_program(["no-such-program"], deadline=soon())


def test_programs_run_on_the_loop_of_the_daemons_too() -> None:
    uvloop = pytest.importorskip("uvloop")

    async def work() -> None:
        stdin = Secret(b"x" * 1_000_000)
        done = await run_program(["sha256sum"], deadline=soon(), stdin=stdin)
        assert done.stdout.split()[0] == hashlib.sha256(b"x" * 1_000_000).hexdigest().encode()
        with pytest.raises(LimitError):
            await run_program(["yes"], deadline=soon(), max_output=1000)
        with pytest.raises(DeadlineError):
            await run_program(["sleep", "1000"], deadline=Deadline.after(0.2))
        with pytest.raises(PlatformError):
            await run_program(["no-such-program"], deadline=soon())

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(work())


async def test_an_escaped_grandchild_that_holds_the_pipes_costs_the_deadline_only() -> None:
    script = "setsid sleep 5 & echo started"
    with pytest.raises(DeadlineError):
        await run_program(["sh", "-c", script], deadline=Deadline.after(0.5))


def test_programs_are_found_in_absolute_directories_only(
    short_tmp: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = short_tmp / "here"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    (short_tmp / "no-x").write_text("")
    monkeypatch.chdir(short_tmp)
    assert find_program("here", f".:{short_tmp}") == str(program)
    assert find_program(str(program)) == str(program)
    for name, path in (("here", "."), ("here", ""), ("no-x", str(short_tmp))):
        with pytest.raises(PlatformError):
            find_program(name, path)


def test_a_hardened_process_dumps_no_core_and_its_files_are_private(repository: Path) -> None:
    script = """
import os, resource, ctypes
from guest.process import harden
harden()
print(os.umask(0), resource.getrlimit(resource.RLIMIT_CORE), ctypes.CDLL(None).prctl(3, 0, 0, 0, 0))
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, cwd=repository, timeout=60
    )
    assert done.stdout == "63 (0, 0) 0\n", done.stderr


async def test_what_a_program_leaves_running_may_keep_its_error_output_and_not_fill_it(
    short_tmp: Path,
) -> None:
    note = short_tmp / "note"
    script = (
        "echo started >&2; "
        f"(read x < {short_tmp}/go; echo more >&2; echo $? > {note}.new; mv {note}.new {note}) & "
        "exit 0"
    )
    os.mkfifo(short_tmp / "go")
    done = await run_program(["sh", "-c", script], deadline=soon(), daemonizes=True)
    assert (done.status, done.stdout, done.stderr) == (0, b"", b"started\n")
    await asyncio.to_thread((short_tmp / "go").write_text, "x\n")
    while not note.exists():
        await asyncio.sleep(0.01)
    assert note.read_text() != "0\n"


async def test_a_daemon_that_fails_to_start_says_why() -> None:
    script = "echo no such bucket >&2; exit 3"
    done = await run_program(["sh", "-c", script], deadline=soon(), daemonizes=True)
    with pytest.raises(PlatformError, match="exit status 3: no such bucket"):
        done.verify_success()
    with pytest.raises(PlatformError, match="is not installed"):
        await run_program(["no-such-program"], deadline=soon(), daemonizes=True)


async def test_children_in_sessions_of_their_own_end_with_their_program(short_tmp: Path) -> None:
    note = short_tmp / "pid"
    script = f"setsid sh -c 'echo $$ > {note}.new; mv {note}.new {note}; exec sleep 1000' & wait"
    async with asyncio.TaskGroup() as group:
        work = group.create_task(run_program(["sh", "-c", script], deadline=soon()))
        while not note.exists():
            await asyncio.sleep(0.01)
        work.cancel()
    pid = int(note.read_text())
    while True:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except FileNotFoundError:
            break
        if state == "Z":
            break
        await asyncio.sleep(0.01)
