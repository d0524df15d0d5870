"""The configfs-tsm report tree with the kernel's semantics, driven by code.

`guest_simulator.tdx.tree` mounts the same tree as a file system.

Source: docs/spec/attesters.md 1.3 (Linux, Documentation/ABI/testing/configfs-tsm-report).
"""

import errno
import os
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

MAX_INBLOB: Final = 64
MAX_OUTBLOB: Final = 32 * 1024
MAX_NEWER_OUTBLOB: Final = 16 * 1024 * 1024
"""Longest report of newer kernels."""

MAX_PRIVLEVEL: Final = 3
COUNTER_BITS: Final = 64

ATTRIBUTES: Final[Mapping[str, int]] = {
    "generation": 0o444,
    "provider": 0o444,
    "inblob": 0o200,
    "outblob": 0o400,
}
"""Of every instance, with the mode."""

SEV_ATTRIBUTES: Final[Mapping[str, int]] = {
    "privlevel": 0o200,
    "privlevel_floor": 0o444,
    "auxblob": 0o400,
}
"""Of `sev_guest` too."""

INBLOB_LENGTHS: Final[Mapping[str, range]] = {"arm_cca_guest": range(32, MAX_INBLOB + 1)}
"""Provider to the lengths it takes; the others take 64 bytes."""


def failure(number: int) -> OSError:
    """What the kernel says."""
    return OSError(number, os.strerror(number))


@dataclass
class _Instance:
    inblob: bytes = b""
    generation: int = 0
    read_generation: int = 0
    outblob: bytes | None = None
    auxblob: bytes = b""


class TsmFile:
    """An open attribute: what is read stays what it was, what is written acts at `close`."""

    def __init__(self, reports: "TsmReports", instance: _Instance, attribute: str) -> None:
        """Nothing was read or written yet; see `TsmReports.open`."""
        self._reports = reports
        self._instance = instance
        self._attribute = attribute
        self._content: bytes | None = None
        self._buffer: bytearray | None = None

    def read(self) -> bytes:
        """All there is; the first read decides."""
        if self._content is None:
            self._content = self._reports.content(self._instance, self._attribute)
        return self._content

    def write(self, data: bytes, offset: int = 0) -> int:
        """One `write`: text acts at once, a blob is collected."""
        if self._attribute == "privlevel":
            self._reports.set_privlevel(self._instance, data)
            return len(data)
        if offset + len(data) > MAX_INBLOB:
            raise failure(errno.EFBIG)
        if self._buffer is None:
            self._buffer = bytearray()
        self._buffer[offset : offset + len(data)] = data
        return len(data)

    def close(self) -> None:
        """Let the blob act; the kernel keeps what goes wrong to itself."""
        data, self._buffer = self._buffer, None
        if data is not None:
            with suppress(OSError):  # as the kernel: nobody hears of it
                self._reports.set_inblob(self._instance, bytes(data))


class TsmReports:
    """The directory `report`; names are relative to it."""

    def __init__(
        self,
        generate: Callable[[bytes], bytes],
        *,
        provider: str | None = "tdx_guest",
        max_outblob: int = MAX_OUTBLOB,
        auxiliary: Callable[[], bytes] = bytes,
        privlevel_floor: int = 0,
        counter_bits: int = COUNTER_BITS,
    ) -> None:
        """An empty directory.

        Args:
            generate: makes a report for 64 bytes; blocks as long as the hardware would.
            provider: name of the module; None while none is loaded.
            max_outblob: longest report, as this kernel has it.
            auxiliary: makes the `auxblob` of `sev_guest`, at the moment of the report.
            privlevel_floor: lowest `privlevel` that this guest may ask for.
            counter_bits: width of the generation counter; few bits make it wrap.
        """
        self._generate = generate
        self._auxiliary = auxiliary
        self._floor = privlevel_floor
        self._modulus = 2**counter_bits
        self._lock = threading.Lock()
        self._generating = threading.Lock()
        self._instances: dict[str, _Instance] = {}
        self.provider = provider
        self.max_outblob = max_outblob

    def names(self) -> tuple[str, ...]:
        """The instances."""
        return tuple(sorted(self._instances))

    def attributes(self, name: str) -> Mapping[str, int]:
        """Names and modes of an instance's attributes."""
        self._find(name)
        return {**ATTRIBUTES, **(SEV_ATTRIBUTES if self.provider == "sev_guest" else {})}

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

    def open(self, name: str, attribute: str, *, is_write: bool) -> TsmFile:
        """`open`, for reading or for writing, never for both."""
        mode = self.attributes(name).get(attribute)
        if mode is None:
            raise failure(errno.ENOENT)
        if not mode & (0o200 if is_write else 0o444):
            raise failure(errno.EACCES)
        return TsmFile(self, self._find(name), attribute)

    def write(self, name: str, attribute: str, data: bytes) -> int:
        """`open`, one `write`, `close`."""
        file = self.open(name, attribute, is_write=True)
        taken = file.write(data)
        file.close()
        return taken

    def read(self, name: str, attribute: str) -> bytes:
        """`open`, `read` to the end, `close`."""
        return self.open(name, attribute, is_write=False).read()

    def set_inblob(self, instance: _Instance, data: bytes) -> None:
        """What is to be bound; makes the report that there is out of date."""
        with self._lock:
            self._advance(instance)
            instance.inblob = data

    def set_privlevel(self, instance: _Instance, text: bytes) -> None:
        """The level as a number; changes nothing in this report but its generation."""
        try:
            level = int(text.decode("ascii").strip())
        except ValueError:
            raise failure(errno.EINVAL) from None
        if not self._floor <= level <= MAX_PRIVLEVEL:
            raise failure(errno.EINVAL)
        with self._lock:
            self._advance(instance)

    def content(self, instance: _Instance, attribute: str) -> bytes:
        """What an attribute reads as; generates the report if need be."""
        match attribute:
            case "generation":
                return f"{instance.generation}\n".encode()
            case "privlevel_floor":
                return f"{self._floor}\n".encode()
            case "provider":
                return f"{self._loaded()}\n".encode()
        with self._generating:
            outblob = self._outblob(instance)
        return outblob if attribute == "outblob" else instance.auxblob

    def _advance(self, instance: _Instance) -> None:
        """Count a write; one generation is never mistaken for another a whole turn later."""
        following = (instance.generation + 1) % self._modulus
        if following == instance.read_generation:
            raise failure(errno.EBUSY)
        instance.generation = following

    def _outblob(self, instance: _Instance) -> bytes:
        provider = self._loaded()
        if not instance.inblob:
            raise failure(errno.EINVAL)
        if instance.outblob is not None and instance.read_generation == instance.generation:
            return instance.outblob
        instance.outblob = None
        if len(instance.inblob) not in INBLOB_LENGTHS.get(provider, (MAX_INBLOB,)):
            raise failure(errno.EINVAL)
        with self._lock:
            inblob, generation = instance.inblob, instance.generation
        report = self._generate(inblob)
        if len(report) > self.max_outblob:
            raise failure(errno.EFBIG)
        instance.auxblob = self._auxiliary()
        instance.read_generation = generation
        instance.outblob = report
        return report

    def _loaded(self) -> str:
        if self.provider is None:
            raise failure(errno.ENXIO)
        return self.provider

    def _find(self, name: str) -> _Instance:
        instance = self._instances.get(name)
        if instance is None:
            raise failure(errno.ENOENT)
        return instance
