"""One layer's worker: a forked child that reads a tar, makes files, reports, and ends.

Everything it needs is imported before the fork; it never imports, forks or executes.

Source: docs/ARCHITECTURE.md, decision 6.
"""

import errno
import gc
import hashlib
import os
import socket
import time
from contextlib import suppress
from typing import Final, NoReturn

from guest.errors import DecodeError, LimitError
from image_pull.layers import jail, jobs
from image_pull.layers.decompress import decompress
from image_pull.layers.header import Entry
from image_pull.layers.jobs import FRAME, Failure, FailureKind, FrameKind, Job
from image_pull.layers.media_types import Compression
from image_pull.layers.record import MAX_RECORD, Jail, LayerRecord
from image_pull.layers.tar import TarReader
from image_pull.layers.unpack import Unpacker

ROOT: Final = 0
"""Where the worker has its root directory; 1 and 2 are the same, so that nothing writes there."""

SOCKET: Final = 3

PROGRESS_SECONDS: Final = 1.0
"""Seconds between two signs of life."""

NO_SPACE: Final = (errno.ENOSPC, errno.EDQUOT)


class LengthError(LimitError):
    """The tar is longer than the job allows."""


class _SocketSource:
    """The data socket's reading end."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection

    def read(self, size: int, /) -> bytes:
        return self._connection.recv(size)


class _Pulse:
    """Says now and then that work goes on, unless nobody listens."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._next = time.monotonic() + PROGRESS_SECONDS

    def beat(self) -> None:
        now = time.monotonic()
        if now >= self._next:
            self._next = now + PROGRESS_SECONDS
            with suppress(BlockingIOError):  # a sign of life that does not fit is not missed
                self._connection.send(FRAME.pack(FrameKind.PROGRESS, 0), socket.MSG_DONTWAIT)


def unpack_layer(
    job: Job, root: int, source: _SocketSource, pulse: _Pulse, walls: Jail
) -> LayerRecord:
    """Read the tar to its end into the directory.

    Raises:
        DecodeError: the layer is broken or hostile.
        LimitError: the layer is too large.
        OSError: the system refused.
    """
    digest = hashlib.new(job.algorithm)
    reader = TarReader()
    unpacker = Unpacker(root, job.privileged)
    take_entry, take_data = unpacker.entry, unpacker.data
    length = 0
    for piece in decompress(Compression(job.compression), source):
        length += len(piece)
        if length > job.max_bytes:
            raise LengthError(f"layer has more than {job.max_bytes} bytes uncompressed")
        digest.update(piece)
        for event in reader.feed(piece):
            if type(event) is Entry:
                take_entry(event)
            else:
                take_data(event)  # type: ignore[arg-type]  # an event is an entry or data
        pulse.beat()
    reader.finish()
    noted = unpacker.finish()
    return LayerRecord(
        diff_id=f"{job.algorithm}:{digest.hexdigest()}",
        entries=unpacker.entries,
        tar_bytes=length,
        jail=walls,
        privileged=job.privileged,
        whiteouts=tuple(noted.whiteouts),
        opaque=tuple(noted.opaque),
        implicit=tuple(noted.implicit),
        devices=tuple(noted.devices),
        kept=tuple(noted.kept),
        root=noted.root,
        skipped_xattrs=unpacker.attributes.skipped,
    )


def run_worker(job: Job, connection: int, root: int, walls: Jail, server: int) -> NoReturn:
    """The whole life of a worker process.

    Args:
        job: what to do.
        connection: the data socket's descriptor.
        root: the layer's root.
        walls: the jail to enter.
        server: process id of the parent.
    """
    status = 1
    try:
        gc.disable()
        place_descriptors(connection, root)
        data = socket.socket(fileno=SOCKET)
        kind, body = _attempt(job, data, walls, server)
        data.sendall(FRAME.pack(kind, len(body)) + body)
        status = 0
    finally:
        os._exit(status)


def place_descriptors(connection: int, root: int) -> None:
    """Keep the root and the socket, at their places, and nothing else."""
    for number in (0, 1, 2):
        os.dup2(root, number, inheritable=False)
    if connection != SOCKET:
        os.dup2(connection, SOCKET, inheritable=False)
    os.closerange(SOCKET + 1, os.sysconf("SC_OPEN_MAX"))


def enter_jail(root: int, walls: Jail, parent: int) -> None:
    """Put the walls up around this process.

    Raises:
        OSError: the system refused.
    """
    jail.forget_imports()
    jail.limit_resources()
    match walls:
        case Jail.FULL:
            jail.shut_root(root)
        case Jail.LANDLOCK:
            jail.shut_landlock(root)
        case Jail.RESOLVER:
            pass
    jail.die_with(parent)


def _attempt(job: Job, data: socket.socket, walls: Jail, server: int) -> tuple[FrameKind, bytes]:
    try:
        enter_jail(ROOT, walls, server)
        record = unpack_layer(job, ROOT, _SocketSource(data), _Pulse(data), walls)
        body = record.encode()
        if len(body) > MAX_RECORD:
            raise LimitError(f"report on the layer exceeds {MAX_RECORD} bytes")
    except DecodeError as error:
        return _failure(FailureKind.INPUT, str(error))
    except LengthError as error:
        return _failure(FailureKind.LENGTH, str(error))
    except LimitError as error:
        return _failure(FailureKind.LIMIT, str(error))
    except MemoryError:
        return _failure(FailureKind.LIMIT, f"layer needs more than {jail.MEMORY} bytes of memory")
    except OSError as error:
        kind = FailureKind.SPACE if error.errno in NO_SPACE else FailureKind.SYSTEM
        return _failure(kind, f"{error.strerror}")
    except Exception as error:  # noqa: BLE001  # a bug is told to the puller, which logs it
        return _failure(FailureKind.SYSTEM, f"{_place(error)} {type(error).__name__}: {error}")
    return FrameKind.REPORT, body


def _place(error: BaseException) -> str:
    """Where an error arose; a traceback cannot be printed, as it would read source files."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    if trace is None:
        return "?"
    return f"{trace.tb_frame.f_code.co_name}:{trace.tb_lineno}"


def _failure(kind: FailureKind, text: str) -> tuple[FrameKind, bytes]:
    clean = "".join(c if c.isprintable() else "?" for c in text[: jobs.MAX_TEXT])
    return FrameKind.FAILURE, jobs.encode(Failure(kind=kind, text=clean))
