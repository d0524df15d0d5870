"""The report provider of the kernel, with stand-ins for configfs."""

import errno
import os
from pathlib import Path

import pytest

from attestation_agent.hardware.tsm import find_provider
from guest.errors import PlatformError


class Configfs:
    """Directories in which attributes appear, as configfs has it."""

    def __init__(self, provider: str | None = "tdx_guest\n", errors: tuple[int, ...] = ()) -> None:
        self._provider = provider
        self._errors = list(errors)

    def mkdir(self, path: str, mode: int = 0o777) -> None:
        if self._errors:
            number = self._errors.pop(0)
            raise OSError(number, os.strerror(number))
        os.mkdir(path, mode)
        if self._provider is not None:
            (Path(path) / "provider").write_text(self._provider)

    def rmdir(self, path: str) -> None:
        (Path(path) / "provider").unlink(missing_ok=True)
        os.rmdir(path)


def test_the_provider_is_read_and_the_instance_removed(short_tmp: Path) -> None:
    assert find_provider(str(short_tmp), Configfs()) == "tdx_guest"
    assert find_provider(str(short_tmp), Configfs("sev_guest\n")) == "sev_guest"
    assert list(short_tmp.iterdir()) == []


def test_without_interface_or_provider_there_is_none(short_tmp: Path) -> None:
    assert find_provider(str(short_tmp / "none"), Configfs()) is None
    assert find_provider(str(short_tmp), Configfs(errors=(errno.ENXIO,))) is None


def test_a_taken_name_is_passed_over(short_tmp: Path) -> None:
    taken = Configfs(errors=(errno.EEXIST, errno.EBUSY))
    assert find_provider(str(short_tmp), taken) == "tdx_guest"
    with pytest.raises(PlatformError, match="cannot be made"):
        find_provider(str(short_tmp), Configfs(errors=(errno.EBUSY,) * 1000))


@pytest.mark.parametrize("number", [errno.EACCES, errno.EPERM, errno.EIO, errno.ENOENT])
def test_an_interface_that_refuses_is_an_error_not_an_absence(short_tmp: Path, number: int) -> None:
    with pytest.raises(PlatformError, match="cannot be made"):
        find_provider(str(short_tmp), Configfs(errors=(number,)))


def test_an_instance_without_provider_is_an_error_and_removed(short_tmp: Path) -> None:
    with pytest.raises(PlatformError, match="names no provider"):
        find_provider(str(short_tmp), Configfs(None))
    assert list(short_tmp.iterdir()) == []
