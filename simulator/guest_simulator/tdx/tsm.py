"""The configfs-tsm report tree with the kernel's semantics, driven by code.

Source: docs/spec/attesters.md 1.3 (Linux, Documentation/ABI/testing/configfs-tsm-report).
"""

import errno
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

MAX_INBLOB: Final = 64
MAX_OUTBLOB: Final = 32 * 1024
ATTRIBUTES: Final = ("generation", "provider", "inblob", "outblob")


def failure(number: int) -> OSError:
    """What the kernel says."""
    return OSError(number, os.strerror(number))


@dataclass
class _Instance:
    inblob: bytes = b""
    generation: int = 0
    read_generation: int = 0
    outblob: bytes | None = None


class TsmReports:
    """The directory `report`; names are relative to it."""

    def __init__(
        self,
        generate: Callable[[bytes], bytes],
        *,
        provider: str | None = "tdx_guest",
        max_outblob: int = MAX_OUTBLOB,
    ) -> None:
        """An empty directory.

        Args:
            generate: makes a report for 64 bytes; blocks as long as the hardware would.
            provider: name of the module; None while none is loaded.
            max_outblob: longest report, as this kernel has it.
        """
        self._generate = generate
        self._lock = threading.Lock()
        self._generating = threading.Lock()
        self._instances: dict[str, _Instance] = {}
        self.provider = provider
        self.max_outblob = max_outblob

    def names(self) -> tuple[str, ...]:
        """The instances."""
        return tuple(sorted(self._instances))

    def make(self, name: str) -> None:
        """`mkdir`."""
        with self._lock:
            if self.provider is None:
                raise failure(errno.ENXIO)
            if name in self._instances:
                raise failure(errno.EEXIST)
            self._instances[name] = _Instance()

    def remove(self, name: str) -> None:
        """`rmdir`."""
        with self._lock:
            if self._instances.pop(name, None) is None:
                raise failure(errno.ENOENT)

    def write(self, name: str, attribute: str, data: bytes) -> int:
        """One `write` and `close`."""
        with self._lock:
            instance = self._find(name)
            if attribute != "inblob":
                raise failure(errno.EACCES if attribute in ATTRIBUTES else errno.ENOENT)
            if len(data) > MAX_INBLOB:
                raise failure(errno.EFBIG)
            if instance.read_generation and instance.generation == instance.read_generation - 1:
                raise failure(errno.EBUSY)
            instance.inblob = data
            instance.generation += 1
            return len(data)

    def read(self, name: str, attribute: str) -> bytes:
        """`open`, `read` to the end, `close`."""
        with self._lock:
            instance = self._find(name)
            provider = self.provider
        if attribute == "provider":
            if provider is None:
                raise failure(errno.ENXIO)
            return f"{provider}\n".encode()
        if attribute == "generation":
            return f"{instance.generation}\n".encode()
        if attribute != "outblob":
            raise failure(errno.EACCES if attribute in ATTRIBUTES else errno.ENOENT)
        with self._generating:
            return self._outblob(instance)

    def _outblob(self, instance: _Instance) -> bytes:
        if self.provider is None:
            raise failure(errno.ENXIO)
        if not instance.generation:
            raise failure(errno.EINVAL)
        if instance.outblob is not None and instance.read_generation == instance.generation:
            return instance.outblob
        if len(instance.inblob) != MAX_INBLOB:
            raise failure(errno.EINVAL)
        report = self._generate(instance.inblob)
        if len(report) > self.max_outblob:
            raise failure(errno.EFBIG)
        instance.read_generation = instance.generation
        instance.outblob = report
        return report

    def _find(self, name: str) -> _Instance:
        instance = self._instances.get(name)
        if instance is None:
            raise failure(errno.ENOENT)
        return instance
