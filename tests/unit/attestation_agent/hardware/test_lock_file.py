"""A lock among processes."""

import asyncio
import fcntl
import os
from pathlib import Path

import pytest

from attestation_agent.hardware.lock_file import LockFile
from guest.deadline import Deadline
from guest.errors import GuestError, PlatformError


def is_free(path: Path) -> bool:
    with open(path, "rb+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True


async def have(lock: LockFile) -> None:
    async with lock.held(Deadline.after(10)):
        raise AssertionError("two have it")


async def test_it_is_had_for_the_block_and_given_back(tmp_path: Path) -> None:
    path = tmp_path / "run" / "lock"
    lock = LockFile(str(path))
    async with lock.held(Deadline.after(10)):
        assert not is_free(path)
        assert path.stat().st_mode & 0o777 == 0o600
    assert is_free(path)
    with pytest.raises(ValueError, match="inner"):
        async with lock.held(Deadline.after(10)):
            raise ValueError("inner")
    assert is_free(path)


async def test_another_holder_is_waited_for_and_a_deadline_ends_the_wait(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    first, second = LockFile(str(path)), LockFile(str(path))
    async with first.held(Deadline.after(10)):
        with pytest.raises(GuestError):
            async with second.held(Deadline.after(0.3)):
                raise AssertionError("two have it")
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(have(second), 0.2)
    async with second.held(Deadline.after(10)):
        assert not is_free(path)
    assert is_free(path)


async def test_a_file_that_cannot_be_made_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("elsewhere")
    with pytest.raises(PlatformError, match="link: open: ELOOP"):
        async with LockFile(str(tmp_path / "link")).held(Deadline.after(5)):
            raise AssertionError("unreachable")
    (tmp_path / "file").touch()
    with pytest.raises(PlatformError, match="file: mkdir: "):
        async with LockFile(str(tmp_path / "file" / "lock")).held(Deadline.after(5)):
            raise AssertionError("unreachable")
    assert not os.path.exists(tmp_path / "elsewhere")
