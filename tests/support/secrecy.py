"""Every secret that a test lets the product hold is a canary: it must not be written anywhere.

Whatever becomes a `Secret` while a test runs is remembered for that test. Afterwards no log
record, no text of an error, no argument and no variable of a program that the product started,
and no file that the product wrote (`support.secret_files`) may hold it, in whatever form. What a
test starts itself, and what it prints or writes, is its own.
"""

import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from guest.errors import GuestError
from guest.log import JsonFormatter
from guest.secret import Secret
from support.canaries import find_secret
from support.secret_files import REPORT, Auditor, FileWatch

AUDITOR: Final = pytest.StashKey[Auditor]()


class _Records(logging.Handler):
    """Notes every record with its extras, as a daemon would write it."""

    def __init__(self, watch: FileWatch) -> None:
        super().__init__()
        self.watch = watch
        self.setFormatter(JsonFormatter())

    def emit(self, record: logging.LogRecord) -> None:
        """Note one."""
        self.watch.note("log", self.format(record))


def _watching_secret(watch: FileWatch) -> Callable[[Secret, Any], None]:
    original = Secret.__init__

    def init(self: Secret, value: bytes | bytearray | memoryview) -> None:
        watch.hold(value)
        original(self, value)

    return init


def _watching_error(watch: FileWatch) -> Callable[..., None]:
    def init(self: GuestError, *arguments: object, **options: object) -> None:
        Exception.__init__(self, *arguments)
        watch.note("error", " ".join(map(str, arguments)))

    return init


def pytest_configure(config: pytest.Config) -> None:
    """Hear what this process writes, and tell the processes that it starts where to report."""
    config.stash[AUDITOR] = auditor = Auditor()
    auditor.install()
    os.environ[REPORT] = str(Path(tempfile.mkdtemp(prefix="cg-report-")) / "report")


def pytest_unconfigure(config: pytest.Config) -> None:
    """Take the folder of reports away."""
    config.stash[AUDITOR].watch = None
    shutil.rmtree(Path(os.environ.pop(REPORT)).parent, ignore_errors=True)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    """Look into the test's folders while they are there."""
    yield
    watch = item.config.stash[AUDITOR].watch
    if watch is not None and isinstance(item, pytest.Function):
        watch.replay(Path(os.environ[REPORT]))
        for name in ("tmp_path", "short_tmp"):
            if isinstance(folder := item.funcargs.get(name), Path):
                watch.walk(folder)


@pytest.fixture(autouse=True)
def secrecy(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail a test that lets a secret be read; `shows_secrets` says that it means to."""
    if request.node.get_closest_marker("shows_secrets") is not None:
        yield
        return
    auditor, watch = request.config.stash[AUDITOR], FileWatch()
    records = _Records(watch)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Secret, "__init__", _watching_secret(watch))
        patch.setattr(GuestError, "__init__", _watching_error(watch), raising=False)
        patch.setattr(os, "open", auditor.open_at)
        logging.getLogger().addHandler(records)
        auditor.watch = watch
        try:
            yield
        finally:
            auditor.watch = None
            logging.getLogger().removeHandler(records)
            Path(os.environ[REPORT]).unlink(missing_ok=True)
    verify(watch)


def verify(watch: FileWatch) -> None:
    """Fail a test whose secrets can be read."""
    found = [f"still there: {path}" for path in watch.left()]
    secrets = watch.secrets.copy()
    if secrets:
        texts = "\n".join(text for _, text in watch.texts).encode("utf-8", "surrogatepass")
        if find_secret(secrets, [("", texts)]):
            each = ((f"{k}: {t}", t.encode("utf-8", "surrogatepass")) for k, t in watch.texts)
            found += find_secret(secrets, each)
        found += find_secret(secrets, watch.contents())
    if found:
        pytest.fail("a secret can be read:\n" + "\n".join(found[:10]), pytrace=False)
