"""The command `process-user-data`: command line, exit statuses, a whole run."""

import asyncio
import subprocess
import sys
import time
from pathlib import Path

import pytest

from guest.userdata.main import make_parser, run
from guest_simulator.faults import Fault
from guest_simulator.metadata import Cloud, Metadata
from support.pod_vm import PodVm, cloud_config, packed_init_data

USER_DATA = cloud_config({"auth.json": "{}\n", "initdata": packed_init_data('"aa.toml" = "a=1"')})


def command(*words: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-I", "-m", "guest.userdata.main", *words],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        env={},
        cwd=Path(__file__).parents[4],
    )


def test_without_arguments_help_is_printed_and_the_status_is_0() -> None:
    done = command()
    assert done.returncode == 0
    assert "usage: process-user-data" in done.stdout
    assert "provision-files" in done.stdout


@pytest.mark.parametrize("words", [["-v"], ["--version"]])
def test_the_version_is_printed(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        run(words, {})
    assert ended.value.code == 0
    assert capsys.readouterr().out.startswith("process-user-data version ")


WRONG = [
    ["nonsense"],
    ["--nonsense"],
    ["provision-files", "--nonsense"],
    ["provision-files", "-t"],
    ["provision-files", "-t", "soon"],
    ["provision-files", "-t", "0"],
    ["provision-files", "-t", "-5"],
    ["provision-files", "more"],
]


@pytest.mark.parametrize("words", WRONG, ids=" ".join)
def test_a_wrong_command_line_is_status_1(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        run(words, {})
    assert ended.value.code == 1
    assert capsys.readouterr().err.startswith("process-user-data")


def test_the_flags_are_those_of_the_specification() -> None:
    parser = make_parser()
    assert parser.parse_args(["provision-files"]).user_data_fetch_timeout == 180
    for flag in ("-t", "--user-data-fetch-timeout"):
        options = parser.parse_args(["provision-files", flag, "7"])
        assert options.user_data_fetch_timeout == 7


def test_the_command_writes_what_a_disk_holds(tmp_path: Path) -> None:
    machine = PodVm(tmp_path)
    machine.put_cidata(USER_DATA)
    done = command("provision-files", "--root", str(tmp_path))
    assert (done.returncode, done.stdout) == (0, "")
    assert set(machine.written()) == {"aa.toml", "auth.json", "initdata", "initdata.digest"}
    assert machine.modes() == {0o644}
    assert "files written" in done.stderr


def test_files_are_private_on_demand(tmp_path: Path) -> None:
    machine = PodVm(tmp_path)
    words = ["provision-files", "--private-files", "--root", str(tmp_path)]
    assert run(words, {}) == 0
    assert machine.modes() == {0o600}


@pytest.mark.spec("podvm-image", 19)
@pytest.mark.parametrize(
    ("user_data", "status"),
    [(b"", 0), (b"users: []\n", 1), (b"write_files:\n- {path: a, mode: b}\n", 1), (b"%$#", 1)],
)
def test_an_unknown_key_fails_and_an_empty_document_passes(
    tmp_path: Path, user_data: bytes, status: int
) -> None:
    machine = PodVm(tmp_path)
    machine.put_cidata(user_data)
    done = command("provision-files", "--root", str(tmp_path), "-t", "20")
    assert done.returncode == status
    assert bool(machine.written()) == (status == 0)


def test_a_failure_is_one_line_with_its_cause(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    PodVm(tmp_path).put_cidata(cloud_config({"initdata": "####"}))
    assert run(["provision-files", "--root", str(tmp_path)], {"RUST_LOG": "error"}) == 1
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert said.startswith(
        "process-user-data: init data cannot be read: packed init data is not base64"
    )


async def attempts(server: Metadata, root: Path, seconds: int) -> tuple[int, float]:
    """Exit status and seconds of a run on Alibaba Cloud."""
    PodVm(root).set_vendor("Alibaba Cloud")
    words = ["provision-files", "--root", str(root), "-t", str(seconds)]
    started = time.monotonic()
    status = await asyncio.to_thread(run, words, {}, bases={"alibaba": server.url})
    return status, time.monotonic() - started


@pytest.mark.spec("podvm-image", 23)
async def test_attempts_go_on_until_the_time_of_the_flag_is_over_and_then_fail(
    tmp_path: Path,
) -> None:
    async with Metadata(Cloud.ALIBABA, USER_DATA) as server:
        fault = server.faults.add(Fault(path="user-data", status=503))
        status, seconds = await attempts(server, tmp_path, 6)
        assert (status, PodVm(tmp_path).written()) == (1, {})
        assert seconds >= 4
        assert fault.hits >= 3
        server.faults.clear()
        server.faults.add(Fault(path="user-data", status=503, times=2))
        status, _ = await attempts(server, tmp_path, 60)
        assert status == 0
        assert PodVm(tmp_path).written()["aa.toml"] == b"a=1"


def test_a_name_server_that_never_answers_does_not_hold_the_end_back(tmp_path: Path) -> None:
    """The process leaves while the resolver's thread still waits."""
    script = (
        "import os, socket, sys, time\n"
        "socket.getaddrinfo = lambda *a, **k: time.sleep(50)\n"
        "from guest.userdata.main import run\n"
        "run(sys.argv[1:], {}, leave=os._exit)\n"
    )
    PodVm(tmp_path).set_vendor("Google")
    words = ["provision-files", "-t", "2", "--root", str(tmp_path)]
    started = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", script, *words],
        capture_output=True,
        timeout=45,
        cwd=Path(__file__).parents[4],
    )
    assert done.returncode == 1, done.stderr
    assert time.monotonic() - started < 40


def test_the_log_level_is_that_of_the_environment(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["provision-files", "--root", str(tmp_path)], {"RUST_LOG": "off"}) == 0
    assert capsys.readouterr().err == ""
    assert run(["provision-files", "--root", str(tmp_path)], {"RUST_LOG": "a=b=c"}) == 1
    assert "RUST_LOG is present but invalid" in capsys.readouterr().err


def test_a_full_disk_leaves_nothing_behind(tmp_path: Path) -> None:
    script = (
        "import resource, sys\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))\n"
        "from guest.userdata.main import run\n"
        "sys.exit(run(sys.argv[1:], {}))\n"
    )
    machine = PodVm(tmp_path)
    machine.put_cidata(USER_DATA)
    done = subprocess.run(
        [sys.executable, "-I", "-c", script, "provision-files", "--root", str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 1
    assert "cannot be written" in done.stderr
    assert machine.written() == {}


def test_control_characters_of_a_path_do_not_reach_the_console(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    PodVm(tmp_path).put_cidata(b'write_files:\n- path: "/x\\e[2J\\n"\n')
    assert run(["provision-files", "--root", str(tmp_path)], {}) == 0
    said = capsys.readouterr().err
    assert "File: /x?[2J? is not allowed in WriteFiles." in said
    assert "\x1b" not in said
