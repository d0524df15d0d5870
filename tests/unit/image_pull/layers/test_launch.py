"""The puller's side of the unpack server: which jail it has is said once, and what it costs."""

import errno
import logging
import os
import select
import signal
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from guest.deadline import Deadline
from guest.errors import PlatformError
from image_pull.layers.jobs import Hello
from image_pull.layers.launch import UnpackServers, log_jail, refuse_weak_root
from image_pull.layers.pipeline import LayerPipeline
from image_pull.layers.record import Jail

HOLDER = """
import asyncio, socket, sys
from image_pull.layers.launch import UnpackServer
from guest.deadline import Deadline

async def hold():
    server = UnpackServer()
    await server.ready(Deadline.after(30))
    with socket.socket(fileno=int(sys.argv[1])) as test:
        socket.send_fds(test, [str(server.pid).encode()], [server._control.fileno()])
    await asyncio.sleep(300)

asyncio.run(hold())
"""
"""Starts a server and gives the test its own end of the control socket."""


def test_a_jail_that_is_not_the_full_one_is_a_warning_that_says_why(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.INFO):
        log_jail(Hello(jail=Jail.FULL, namespaces=("net", "pid")))
        log_jail(Hello(jail=Jail.LANDLOCK, why="chroot: Operation not permitted"))
    full, weak = caplog.records
    assert (full.levelname, full.__dict__["jail"]) == ("INFO", "full")
    assert full.__dict__["namespaces"] == "net,pid"
    assert (weak.levelname, weak.__dict__["jail"]) == ("WARNING", "landlock")
    assert weak.__dict__["why"] == "chroot: Operation not permitted"


def test_root_without_the_full_jail_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    weak = Hello(jail=Jail.RESOLVER, why="no chroot")
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    refuse_weak_root(Hello(jail=Jail.FULL))
    with pytest.raises(PlatformError, match="needs the full jail: no chroot"):
        refuse_weak_root(weak)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    refuse_weak_root(weak)


async def test_every_server_is_announced_once_however_often_it_is_asked_for() -> None:
    heard: list[Hello] = []
    with ThreadPoolExecutor(1) as pool:
        servers = UnpackServers(pool, heard.append)
        for _ in range(2):
            await servers.current(Deadline.after(30))
        assert len(heard) == 1
        await servers.close()
        _, hello = await servers.current(Deadline.after(30))
        assert heard[1:] == [hello]
        await servers.close()


async def test_a_server_started_ahead_is_the_one_that_is_used_and_ends_when_unused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pids: list[int] = []

    class Counted(subprocess.Popen[bytes]):
        def __init__(self, *arguments: Any, **settings: Any) -> None:
            super().__init__(*arguments, **settings)
            pids.append(self.pid)

    monkeypatch.setattr("subprocess.Popen", Counted)
    with ThreadPoolExecutor(1) as pool:
        servers = UnpackServers(pool, lambda hello: None)
        servers.start()
        servers.start()
        server, _ = await servers.current(Deadline.after(30))
        servers.start()
        assert pids == [server.pid]
        await servers.close()
        servers.start()
        assert len(pids) == 2
        await servers.close()
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)


async def test_a_server_that_cannot_be_started_fails_the_layer_and_not_the_preparation(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(*arguments: object, **settings: object) -> None:
        raise OSError(errno.EAGAIN, "no processes left")

    open_before = len(os.listdir("/proc/self/fd"))
    with ThreadPoolExecutor(1) as pool:
        made = LayerPipeline(pool=pool, cores=1)
        servers = UnpackServers(pool, lambda hello: None)
        with monkeypatch.context() as patch:
            patch.setattr("subprocess.Popen", refuse)
            made.start()
            with pytest.raises(PlatformError, match="cannot be started: no processes left"):
                await servers.current(Deadline.after(30))
        assert len(os.listdir("/proc/self/fd")) == open_before
        await servers.current(Deadline.after(30))
        await servers.close()
        await made.close()


@pytest.mark.root
async def test_the_server_is_the_first_process_of_its_pid_namespace_and_nobody_else_is_in_one() -> (
    None
):
    with ThreadPoolExecutor(1) as pool:
        servers = UnpackServers(pool, lambda hello: None)
        server, hello = await servers.current(Deadline.after(30))
        ours = os.stat("/proc/self/ns/pid").st_ino
        other = subprocess.run(
            ["readlink", "/proc/self/ns/pid"], capture_output=True, text=True, check=True
        )
        numbers = Path(f"/proc/{server.pid}/status").read_text().split("NSpid:")[1].split("\n")[0]
        parent = Path(f"/proc/{server.pid}/stat").read_text().rpartition(")")[2].split()[1]
        assert "pid" in hello.namespaces
        assert numbers.split()[-2:] == [str(server.pid), "1"]
        assert other.stdout.strip() == f"pid:[{ours}]"
        assert int(parent) == os.getpid()
        await servers.close()


async def test_a_server_may_share_our_pid_namespace_where_it_can_have_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("image_pull.layers.jail.separate_children", lambda: False)
    with ThreadPoolExecutor(1) as pool:
        servers = UnpackServers(pool, lambda hello: None)
        _, hello = await servers.current(Deadline.after(30))
        assert "pid" not in hello.namespaces
        await servers.close()


def test_the_server_imports_nothing_that_it_could_do_without() -> None:
    code = "import image_pull.layers.server, sys; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-I", "-c", code], capture_output=True, text=True, timeout=50
    )
    heavy = {"asyncio", "dataclasses", "inspect", "msgspec", "pathlib", "typing_extensions"}
    assert done.returncode == 0, done.stderr
    assert not heavy & set(done.stdout.split())


def test_a_server_ends_with_its_puller_though_the_control_socket_stays_open() -> None:
    ours, theirs = socket.socketpair()
    ours.settimeout(60)
    command = [sys.executable, "-c", HOLDER, str(theirs.fileno())]
    with ours, subprocess.Popen(command, pass_fds=[theirs.fileno()]) as puller:
        theirs.close()
        try:
            number, (control,), _, _ = socket.recv_fds(ours, 20, 1)
            end = os.pidfd_open(int(number))
            assert not select.select([end], [], [], 0)[0]
        finally:
            os.kill(puller.pid, signal.SIGKILL)
        assert select.select([end], [], [], 60)[0] == [end]
        os.close(control)
        os.close(end)
