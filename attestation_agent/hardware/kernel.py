"""This machine's kernel.

Source: docs/spec/attesters.md 1.3, 3.2, 3.3 and 3.6.
"""

import fcntl
import os
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Final

_CHUNK: Final = 64 * 1024

_COPIED: Final = 1024
"""Longest argument, in bytes, that `fcntl.ioctl` copies; during a call with a longer one, which it
passes as it is, it lets no other thread run."""


class Kernel:
    """The calls themselves; see `hardware.calls.KernelCalls`."""

    def exists(self, path: str) -> bool:
        """By `stat`, which opens nothing."""
        try:
            os.stat(path)
        except (FileNotFoundError, NotADirectoryError):
            return False
        return True

    def list_names(self, path: str) -> Sequence[str]:
        """Sorted."""
        return sorted(os.listdir(path))

    def make_directory(self, path: str) -> None:
        """`mkdir`, mode 0700."""
        os.mkdir(path, 0o700)

    def remove_directory(self, path: str) -> None:
        """`rmdir`."""
        os.rmdir(path)

    def read(self, path: str, limit: int) -> bytes:
        """As many `read` calls as it takes."""
        content = bytearray()
        with _opened(path, os.O_RDONLY) as handle:
            while len(content) < limit:
                chunk = os.read(handle, min(_CHUNK, limit - len(content)))
                if not chunk:
                    break
                content += chunk
        return bytes(content)

    def write(self, path: str, data: bytes) -> int:
        """One `write`; an attribute that acts at `close` keeps its error to itself."""
        with _opened(path, os.O_WRONLY) as handle:
            return os.write(handle, data)

    def control(self, path: str, code: int, argument: bytearray) -> None:
        """One `ioctl`, during which other threads run."""
        with _opened(path, os.O_RDONLY) as handle:
            if len(argument) <= _COPIED:
                fcntl.ioctl(handle, code, argument, True)
            else:
                _control_in_place(handle, code, argument)

    def control_buffer(self, path: str, code: int, buffer: bytearray) -> None:
        """One `ioctl` with the buffer's address, which stays where it is until it returns."""
        import ctypes

        memory = (ctypes.c_char * len(buffer)).from_buffer(buffer)
        argument = bytearray(struct.pack("=QQ", ctypes.addressof(memory), len(buffer)))
        try:
            self.control(path, code, argument)
        finally:
            del memory


def _control_in_place(handle: int, code: int, argument: bytearray) -> None:
    """One `ioctl` of the C library, which is called without the interpreter's lock."""
    import ctypes

    library = ctypes.CDLL(None, use_errno=True)
    memory = (ctypes.c_char * len(argument)).from_buffer(argument)
    try:
        pointer = ctypes.c_void_p(ctypes.addressof(memory))
        if library.ioctl(handle, ctypes.c_ulong(code), pointer) < 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
    finally:
        del memory


@contextmanager
def _opened(path: str, flags: int) -> Iterator[int]:
    handle = os.open(path, flags | os.O_CLOEXEC | os.O_NOCTTY)
    try:
        yield handle
    finally:
        os.close(handle)


KERNEL: Final = Kernel()
