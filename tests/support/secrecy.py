"""Every secret that a test lets the product hold is a canary: it must not be written anywhere.

Whatever becomes a `Secret` while a test runs is remembered for that test. Afterwards no log
record, no text of an error, no argument and no variable of a program that the product started may
hold it, in whatever form. What a test starts itself, and what it prints, is its own.
"""

import asyncio
import base64
import logging
from collections.abc import Callable, Iterator
from typing import Any, Final

import pytest

from guest.errors import GuestError
from guest.log import JsonFormatter
from guest.secret import Secret

SHORTEST: Final = 12
"""Bytes of the shortest secret that is looked for: a shorter one is in texts by chance."""

LONGEST: Final = 48
"""Bytes that are looked for, from the middle of a longer one."""

MOST_SECRETS: Final = 256
MOST_TEXTS: Final = 4096
MOST_CHARACTERS: Final = 16_384


class Watch:
    """What one test's secrets were, and what was written meanwhile."""

    def __init__(self) -> None:
        self.secrets: set[bytes] = set()
        self.texts: list[tuple[str, str]] = []

    def hold(self, value: bytes | bytearray | memoryview) -> None:
        """Remember a secret."""
        length = len(value)
        if length < SHORTEST or len(self.secrets) >= MOST_SECRETS:
            return
        start = max(0, (length - LONGEST) // 2)
        part = bytes(value[start : start + LONGEST])
        if len(set(part)) > 3:  # not zeros, not one letter again and again
            self.secrets.add(part)

    def note(self, kind: str, text: str) -> None:
        """Remember what somebody may read."""
        if len(self.texts) < MOST_TEXTS:
            self.texts.append((kind, text[:MOST_CHARACTERS]))

    def findings(self) -> list[str]:
        """Texts that hold a secret."""
        if not self.secrets or not self.texts:
            return []
        whole = "\n".join(text for _, text in self.texts)
        found = []
        for secret in self.secrets:
            for form in forms(secret):
                if form in whole:
                    found += [f"{kind}: {text}" for kind, text in self.texts if form in text]
        return found


def forms(secret: bytes) -> set[str]:
    """How a secret may look: as text, hex, as Python shows bytes, base64 at any offset."""
    found = {secret.hex(), repr(secret)[2:-1], ", ".join(map(str, secret))}
    if secret.isascii():
        found.add(secret.decode("ascii"))
    for encode in (base64.b64encode, base64.urlsafe_b64encode):
        for offset in range(3):
            encoded = encode(b"\0" * offset + secret).rstrip(b"=").decode("ascii")
            found.add(encoded[(4 if offset else 0) : -1])
    return found


class _Records(logging.Handler):
    """Notes every record with its extras, as a daemon would write it."""

    def __init__(self, watch: Watch) -> None:
        super().__init__()
        self.watch = watch
        self.setFormatter(JsonFormatter())

    def emit(self, record: logging.LogRecord) -> None:
        """Note one."""
        self.watch.note("log", self.format(record))


def _watching_secret(watch: Watch) -> Callable[[Secret, Any], None]:
    original = Secret.__init__

    def init(self: Secret, value: bytes | bytearray | memoryview) -> None:
        watch.hold(value)
        original(self, value)

    return init


def _watching_error(watch: Watch) -> Callable[..., None]:
    def init(self: GuestError, *arguments: object, **options: object) -> None:
        Exception.__init__(self, *arguments)
        watch.note("error", " ".join(map(str, arguments)))

    return init


def _watching_exec(watch: Watch) -> Callable[..., Any]:
    original = asyncio.BaseEventLoop.subprocess_exec

    async def run(
        self: asyncio.BaseEventLoop, factory: Any, program: Any, *arguments: Any, **options: Any
    ) -> Any:
        for argument in (program, *arguments, *(options.get("env") or {}).values()):
            text = argument.decode("utf-8", "replace") if isinstance(argument, bytes) else argument
            watch.note("argument or variable", str(text))
        return await original(self, factory, program, *arguments, **options)

    return run


@pytest.fixture(autouse=True)
def secrecy(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail a test that lets a secret be read; `shows_secrets` says that it means to."""
    if request.node.get_closest_marker("shows_secrets") is not None:
        yield
        return
    watch = Watch()
    records = _Records(watch)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Secret, "__init__", _watching_secret(watch))
        patch.setattr(GuestError, "__init__", _watching_error(watch), raising=False)
        patch.setattr(asyncio.BaseEventLoop, "subprocess_exec", _watching_exec(watch))
        logging.getLogger().addHandler(records)
        try:
            yield
        finally:
            logging.getLogger().removeHandler(records)
    found = watch.findings()
    if found:
        pytest.fail("a secret can be read:\n" + "\n".join(found[:10]), pytrace=False)
