"""One open connection to a TPM: a command goes out, its response comes back, in time.

A TPM is a character device, or the socket of one that runs as a program. It is opened for one
piece of work and never kept: without a resource manager nobody else could use it meanwhile.

Source: docs/spec/attesters.md 5.1 (TPM 2.0 Library, Part 1, 39.4: tries again).
"""

import errno
import itertools
import os
import select
import socket
import stat
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final, Protocol, Self

from attestation_agent.hardware.steps import Steps
from guest.deadline import Deadline
from guest.errors import DeadlineError, PlatformError

MAX_RESPONSE_BYTES: Final = 4096

COMMAND_SECONDS: Final = 20.0
"""Most seconds that one command may take; a hardware TPM signs in well under one."""

RETRY_CODES: Final = (0x922, 0x908, 0x90A, 0x920)
"""TPM_RC_RETRY, _YIELDED, _TESTING, _NV_RATE: nothing was done, the same may be sent again."""

RETRY_SECONDS: Final = 5.0
FIRST_PAUSE: Final = 0.01
LONGEST_PAUSE: Final = 1.0

HEADER: Final = struct.Struct(">HII")
TAGS: Final = (0x8001, 0x8002)

NAMES: Final = {
    0x122: "TPM2_NV_UndefineSpace",
    0x12A: "TPM2_NV_DefineSpace",
    0x137: "TPM2_NV_Write",
    0x14E: "TPM2_NV_Read",
    0x158: "TPM2_Quote",
    0x169: "TPM2_NV_ReadPublic",
    0x173: "TPM2_ReadPublic",
    0x17A: "TPM2_GetCapability",
    0x17E: "TPM2_PCR_Read",
    0x182: "TPM2_PCR_Extend",
}
"""Command code to the name by which errors call it."""


class Line(Protocol):
    """The descriptor below a link; each call fails with `OSError`, as the kernel does.

    Attributes:
        is_stream: a response may come in pieces; a device gives it in one `read`.
    """

    is_stream: bool

    def write(self, data: bytes) -> int:
        """One `write`; how many bytes were taken."""
        ...

    def wait(self, seconds: float) -> bool:
        """Wait until there is something to read; False when there is nothing in time."""
        ...

    def read(self, limit: int) -> bytes:
        """One `read`."""
        ...

    def close(self) -> None:
        """Give the descriptor back."""
        ...


OpenLine = Callable[[str], Line]
"""Opens the device of a path."""


class FileLine:
    """A character device, or the Unix socket of a TPM that is a program."""

    def __init__(self, path: str) -> None:
        """Open it.

        Raises:
            OSError: it cannot be opened.
        """
        self.is_stream = stat.S_ISSOCK(os.stat(path).st_mode)
        if self.is_stream:
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as end:
                end.settimeout(COMMAND_SECONDS)
                end.connect(path)
                end.setblocking(False)
                self._handle = end.detach()
        else:
            flags = os.O_RDWR | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK
            self._handle = os.open(path, flags)
        self._poll = select.poll()
        self._poll.register(self._handle, select.POLLIN)

    def write(self, data: bytes) -> int:
        """See `Line`."""
        return os.write(self._handle, data)

    def wait(self, seconds: float) -> bool:
        """See `Line`."""
        return bool(self._poll.poll(seconds * 1000))

    def read(self, limit: int) -> bytes:
        """See `Line`."""
        return os.read(self._handle, limit)

    def close(self) -> None:
        """See `Line`."""
        os.close(self._handle)


class TpmLink:
    """Commands and responses over an open line; used by one thread."""

    def __init__(self, path: str, line: Line, steps: Steps, deadline: Deadline) -> None:
        """Wrap an open line; `open_link` makes one.

        Args:
            path: for errors.
            line: what is open.
            steps: where the work is.
            deadline: when all of it must be done.
        """
        self.path: Final = path
        self._line = line
        self._steps = steps
        self._deadline = deadline

    def close(self) -> None:
        """Close the line."""
        self._line.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def exchange(self, command: bytes) -> bytes:
        """The whole response to a whole command, whose code the caller judges.

        A TPM that is busy is asked again.

        Raises:
            PlatformError: the device fails, does not answer in time, answers what is no
                response, or stays busy.
        """
        name = name_of(command)
        give_up = self._deadline.within(RETRY_SECONDS)
        for attempt in itertools.count():
            response = self._once(command, name)
            code = code_of(response)
            if code not in RETRY_CODES:
                return response
            try:
                self._steps.pause(min(FIRST_PAUSE * 2**attempt, LONGEST_PAUSE), give_up)
            except DeadlineError as error:
                raise PlatformError(
                    f"{self.path}: {name}: EBUSY (the TPM answers {code:#x} again and again)"
                ) from error
        raise AssertionError("unreachable")

    def _once(self, command: bytes, name: str) -> bytes:
        with self._steps.at(self.path, name):
            taken = self._line.write(command)
            if taken != len(command):
                raise OSError(errno.EIO, f"took {taken} of {len(command)} bytes")
            response = self._receive(self._deadline.within(COMMAND_SECONDS))
        self._verify(response, name)
        return response

    def _receive(self, deadline: Deadline) -> bytes:
        response = b""
        wanted = HEADER.size if self._line.is_stream else 1
        while len(response) < wanted:
            if not self._line.wait(deadline.remaining()):
                raise TimeoutError(errno.ETIMEDOUT, "no answer")
            piece = self._line.read(MAX_RESPONSE_BYTES + 1)
            if not piece:
                break
            response += piece
            if self._line.is_stream and len(response) >= HEADER.size:
                tag, size, _ = HEADER.unpack_from(response)
                wanted = size if tag in TAGS and size <= MAX_RESPONSE_BYTES else 0
        return response

    def _verify(self, response: bytes, name: str) -> None:
        where = f"{self.path}: {name}: EBADMSG"
        if len(response) < HEADER.size:
            raise PlatformError(f"{where} (response of {len(response)} bytes)")
        tag, size, _ = HEADER.unpack_from(response)
        if tag not in TAGS or size != len(response) or size > MAX_RESPONSE_BYTES:
            raise PlatformError(f"{where} (a response that is none: {response[:10].hex()})")


@contextmanager
def open_link(
    path: str, steps: Steps, deadline: Deadline, open_line: OpenLine = FileLine
) -> Iterator[TpmLink]:
    """A link for the block; a device that somebody else has open is waited for.

    Raises:
        PlatformError: it cannot be opened, or stays taken.
    """
    give_up = deadline.within(RETRY_SECONDS)
    for attempt in itertools.count():
        try:
            with steps.at(path, "open"):
                line = open_line(path)
            break
        except PlatformError as error:
            cause = error.__cause__
            if not isinstance(cause, OSError) or cause.errno != errno.EBUSY:
                raise
            try:
                steps.pause(min(FIRST_PAUSE * 2**attempt, LONGEST_PAUSE), give_up)
            except DeadlineError:
                raise error from cause
    with TpmLink(path, line, steps, deadline) as link:
        yield link


def code_of(response: bytes) -> int:
    """The response code; 0 is success."""
    code: int = HEADER.unpack_from(response)[2]
    return code


def name_of(command: bytes) -> str:
    """What errors call a command."""
    code = HEADER.unpack_from(command)[2]
    return NAMES.get(code, f"TPM2 command {code:#x}")
