"""Waiting for a name to appear in a directory, by inotify itself: no polling in between."""

import ctypes
import os
import select
import struct
from pathlib import Path
from types import TracebackType
from typing import Final, Self

IN_CREATE: Final = 0x100
IN_MOVED_TO: Final = 0x80


class Watch:
    """Of one directory, from the moment it is made."""

    def __init__(self, directory: Path) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        self._descriptor = libc.inotify_init1(os.O_CLOEXEC)
        events = IN_CREATE | IN_MOVED_TO
        added = libc.inotify_add_watch(self._descriptor, os.fsencode(directory), events)
        assert added >= 0, os.strerror(ctypes.get_errno())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        os.close(self._descriptor)

    def wait_for(self, name: str, seconds: float) -> None:
        """Return at the event that the name was made or moved here."""
        while True:
            ready, _, _ = select.select([self._descriptor], [], [], seconds)
            assert ready, f"{name} does not appear"
            data = os.read(self._descriptor, 65536)
            while data:
                _, _, _, length = struct.unpack_from("iIII", data)
                found = data[16 : 16 + length].rstrip(b"\0")
                if found == name.encode():
                    return
                data = data[16 + length :]
