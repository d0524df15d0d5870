"""Programs on other projects' ttRPC libraries, as clients and as servers, led by a test.

They talk in lines of words between tabs. Both say `ready` first. A server then says `started` and
`cancelled` with the name of what a handler of GetResource does. A client is told a number, service,
method, payload in hexadecimal, nanoseconds of timeout and metadata as `key=value`, for each call;
all calls run at once on one connection. It says the number and `ok` with the payload in
hexadecimal, `status` with code and text, or `error` with the library's text. Either ends with its
standard input.
"""

import asyncio
import contextlib
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from google.protobuf.message import Message

from guest.rpc.method import Metadata
from tools import ttrpc_peers

SECONDS: Final = 30.0
"""Seconds that anything may take: far more than it does."""

LINE_LENGTH: Final = 32 * 1024 * 1024
"""Longest line: a message of 4 MiB in hexadecimal fits well."""


@dataclass(frozen=True, slots=True)
class Answer:
    """How a call of a foreign client ended.

    Attributes:
        kind: `ok`, `status` or `error`.
        code: of the status, else 0.
        text: of the status or error.
        data: the payload of the answer.
    """

    kind: str
    code: int = 0
    text: str = ""
    data: bytes = b""

    @property
    def status(self) -> tuple[int, str]:
        """Code and text of a status."""
        assert self.kind == "status", self
        return self.code, self.text

    @classmethod
    def of(cls, words: list[str]) -> "Answer":
        """Read the words after a call's number."""
        match words:
            case ["ok", payload]:
                return cls("ok", data=bytes.fromhex(payload))
            case ["status", code, text]:
                return cls("status", int(code), text)
            case ["error", text]:
                return cls("error", text=text)
        raise AssertionError(f"a peer said {words}")


class Caller:
    """A foreign client with one connection."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self._waiting: dict[str, asyncio.Future[Answer]] = {}
        self._count = 0

    def begin(
        self,
        path: str,
        request: Message | bytes,
        *,
        nano: int = 0,
        metadata: Metadata = (),
    ) -> asyncio.Future[Answer]:
        """Have a call made: `path` is `<service>/<method>`; the future is its end."""
        self._count += 1
        number = str(self._count)
        payload = request if isinstance(request, bytes) else request.SerializeToString()
        pairs = " ".join(f"{key}={value}" for key, value in metadata)
        words = (number, *path.split("/"), payload.hex(), str(nano), pairs)
        assert self._process.stdin is not None
        self._process.stdin.write("\t".join(words).encode() + b"\n")
        waiting: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._waiting[number] = waiting
        return waiting

    async def call(
        self, path: str, request: Message | bytes, *, nano: int = 0, metadata: Metadata = ()
    ) -> Answer:
        """Have a call made and wait for its end."""
        async with asyncio.timeout(SECONDS):
            return await self.begin(path, request, nano=nano, metadata=metadata)

    def kill(self) -> None:
        """End the program without a word to anybody."""
        self._process.kill()

    async def read(self) -> None:
        """Give answers to those who wait, each once, until the program ends."""
        assert self._process.stdout is not None
        while line := await self._process.stdout.readline():
            number, *words = line.decode().rstrip("\n").split("\t")
            self._waiting.pop(number).set_result(Answer.of(words))


class Serving:
    """A foreign server."""

    def __init__(self, process: Process) -> None:
        self._process = process

    async def heard(self, *words: str) -> None:
        """Wait until the server says this; other lines before it are skipped."""
        assert self._process.stdout is not None
        async with asyncio.timeout(SECONDS):
            while line := await self._process.stdout.readline():
                if line.decode().rstrip("\n").split("\t") == list(words):
                    return
        raise AssertionError(f"the server ended and never said {words}")

    async def kill(self) -> None:
        """End the program without a word to anybody."""
        self._process.kill()
        async with asyncio.timeout(SECONDS):
            await self._process.wait()


@asynccontextmanager
async def _running(name: str, role: str, path: str) -> AsyncIterator[Process]:
    command = (str(ttrpc_peers.program(name)), role, path)
    process = await asyncio.create_subprocess_exec(
        *command, stdin=PIPE, stdout=PIPE, limit=LINE_LENGTH
    )
    try:
        assert process.stdout is not None
        async with asyncio.timeout(SECONDS):
            assert await process.stdout.readline() == b"ready\n"
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        async with asyncio.timeout(SECONDS):
            await process.communicate()


@asynccontextmanager
async def caller(name: str, path: str) -> AsyncIterator[Caller]:
    """The client `name`, connected to the Unix socket `path`."""
    async with _running(name, "call", path) as process:
        client = Caller(process)
        async with asyncio.TaskGroup() as group:
            reading = group.create_task(client.read(), name=f"answers of {name}")
            try:
                yield client
            finally:
                reading.cancel()


@asynccontextmanager
async def serving(name: str, path: str) -> AsyncIterator[Serving]:
    """The server `name` on the Unix socket `path`."""
    Path(path).unlink(missing_ok=True)
    async with _running(name, "serve", path) as process:
        yield Serving(process)
