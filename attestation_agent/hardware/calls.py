"""The system calls that hardware interfaces are made of, as one contract. Sans-I/O.

A machine's own kernel keeps it (`hardware.kernel`); so does a simulated TEE.

Source: docs/spec/attesters.md 1.3, 3.2, 3.3 and 3.6.
"""

from collections.abc import Sequence
from typing import Protocol


class KernelCalls(Protocol):
    """Blocking calls; each fails with `OSError`, as the kernel does."""

    def exists(self, path: str) -> bool:
        """Whether the path names something; only ENOENT and ENOTDIR mean that it does not."""
        ...

    def list_names(self, path: str) -> Sequence[str]:
        """The names in a directory."""
        ...

    def make_directory(self, path: str) -> None:
        """`mkdir`, mode 0700."""
        ...

    def remove_directory(self, path: str) -> None:
        """`rmdir`."""
        ...

    def read(self, path: str, limit: int) -> bytes:
        """Open, read to the end but at most `limit` bytes, close."""
        ...

    def write(self, path: str, data: bytes) -> int:
        """Open an existing file for writing, one `write`, close; how many bytes were taken."""
        ...

    def control(self, path: str, code: int, argument: bytearray) -> None:
        """Open read-only, one `ioctl` that may change its argument, close.

        What it changed stays when it fails. An argument may hold addresses of `memory.Pages`.
        """
        ...

    def control_buffer(self, path: str, code: int, buffer: bytearray) -> None:
        """The same with the argument `{u64 address, u64 length}` of a buffer that may change."""
        ...
