"""What every test may use: the coroutine runner, the gates, the checklist, short directories."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

pytest_plugins = [
    "support.coroutines",
    "support.gates",
    "support.documents",
    "support.checklist",
    "support.secrecy",
]

settings.register_profile(
    "default",
    deadline=None,
    max_examples=60,
    derandomize=bool(os.environ.get("CI")),
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
settings.load_profile("default")


def pytest_make_parametrize_id(val: object) -> str | None:
    """Name what is given as a dict by its plain values: addresses of objects differ by process."""
    if not isinstance(val, dict):
        return None
    plain = (str, int, float, bool, bytes, type(None))
    name = "-".join(f"{key}={val[key]}" if type(val[key]) in plain else str(key) for key in val)
    return name.encode("ascii", "backslashreplace").decode()


@pytest.fixture
def short_tmp() -> Iterator[Path]:
    """A private directory whose path has at most 30 bytes, for Unix sockets (limit 107)."""
    path = Path(tempfile.mkdtemp(prefix="cg", dir="/tmp"))
    assert len(os.fsencode(path)) <= 30
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root of the source tree."""
    return Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def vectors(repository: Path) -> Path:
    """The folder of test vectors."""
    return repository / "tests" / "vectors"
