"""What dies, stalls, lies or is cancelled while a layer is unpacked."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from guest.errors import DeadlineError, PlatformError, UnavailableError
from support import tarballs as tb
from support.tarballs import file, folder, pipeline, unpack

SAMPLE = (
    folder(b"./", mode=0o750, mtime=5)
    + folder(b"etc")
    + file(b"etc/passwd", b"root\n" * 3000, mtime=7)
    + file(b"bin/su", b"x", mode=0o4755)
    + file(b"etc/.wh.shadow")
    + tb.symlink(b"link", b"/etc/passwd")
    + tb.END
)


class Slow:
    """A source whose end the test decides."""

    def __init__(self, *pieces: bytes) -> None:
        self.pieces = list(pieces)
        self.waiting = asyncio.Event()

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for piece in self.pieces:
            yield piece
        self.waiting.set()
        await asyncio.Event().wait()


def workers(made: object) -> tuple[int, list[int]]:
    """The unpack server's process id, and those of all below it."""
    server = made._servers._current.pid  # type: ignore[attr-defined]  # a test looks inside
    found: list[int] = []
    waiting = [server]
    while waiting:
        for task in Path(f"/proc/{waiting.pop()}/task").glob("*/children"):
            waiting += [int(pid) for pid in task.read_text().split()]
        found = [*found, *waiting]
    return server, sorted(set(found))


BIG = tb.header(b"big", size=1 << 20) + bytes(1 << 20) + SAMPLE


async def test_the_death_of_a_worker_fails_its_layer_though_nothing_is_received(
    tmp_path: Path,
) -> None:
    async with pipeline() as made:
        await unpack(made, SAMPLE, tmp_path / "first", tar=SAMPLE)
        idle = set(workers(made)[1])
        slow = Slow(BIG[: 1 << 19])

        async def fails() -> None:
            with pytest.raises(PlatformError, match="died of signal 9"):
                await unpack(made, BIG, tmp_path / "a", tar=BIG, source=aiter(slow))

        async with asyncio.TaskGroup() as group:
            group.create_task(fails())
            await slow.waiting.wait()
            while not (busy := set(workers(made)[1]) - idle):
                await asyncio.sleep(0.01)
            (worker,) = busy
            os.kill(worker, signal.SIGKILL)
            await unpack(made, SAMPLE, tmp_path / "b", tar=SAMPLE)
        assert not (tmp_path / "a").exists()
        assert (tmp_path / "b/etc").exists()


async def test_the_death_of_the_server_fails_what_is_under_way_though_nothing_is_received(
    tmp_path: Path,
) -> None:
    async with pipeline() as made:
        slow = Slow(BIG[: 1 << 19])

        async def fails() -> None:
            with pytest.raises(UnavailableError, match="unpack server died"):
                await unpack(made, BIG, tmp_path / "a", tar=BIG, source=aiter(slow))

        async with asyncio.TaskGroup() as group:
            group.create_task(fails())
            await slow.waiting.wait()
            os.kill(workers(made)[0], signal.SIGKILL)
        assert not (tmp_path / "a").exists()
        await unpack(made, SAMPLE, tmp_path / "b", tar=SAMPLE)
        assert (tmp_path / "b/etc").exists()


@pytest.mark.spec("ocicrypt", 42)
async def test_a_cut_a_stall_and_a_cancellation_leave_no_layer(tmp_path: Path) -> None:
    target = tmp_path / "layer"

    async def cut() -> AsyncIterator[bytes]:
        yield BIG[: 1 << 19]
        raise UnavailableError("connection lost")

    async with pipeline() as made:
        with pytest.raises(UnavailableError, match="connection lost"):
            await unpack(made, BIG, target, tar=BIG, source=cut())
        assert not target.exists()
        with pytest.raises(DeadlineError):
            await unpack(made, BIG, target, tar=BIG, source=aiter(Slow(BIG[:5000])), idle=0.2)
        assert not target.exists()
        slow = Slow(BIG[: 1 << 19])
        async with asyncio.TaskGroup() as group:
            task = group.create_task(unpack(made, BIG, target, tar=BIG, source=aiter(slow)))
            await slow.waiting.wait()
            task.cancel()
        assert task.cancelled()
        assert not target.exists()
        await unpack(made, SAMPLE, target, tar=SAMPLE)


async def test_closing_ends_the_server(tmp_path: Path) -> None:
    async with pipeline() as made:
        await unpack(made, SAMPLE, tmp_path / "a", tar=SAMPLE)
        server, below = workers(made)
    for pid in (server, *below):
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
