"""Absent is absent, and nothing else is."""

from pathlib import Path

import pytest

from attestation_agent.hardware.device import exists, find_text
from guest.errors import PlatformError


def test_what_is_not_there_is_absent(short_tmp: Path) -> None:
    (short_tmp / "file").touch()
    for path in (short_tmp / "none", short_tmp / "file" / "below"):
        assert not exists(str(path))
        assert find_text(str(path)) is None
    assert exists(str(short_tmp / "file"))
    assert find_text(str(short_tmp / "file")) == ""


def test_text_is_read_up_to_a_limit_without_its_ends(short_tmp: Path) -> None:
    (short_tmp / "file").write_bytes(b" a\xff\n" + b" " * 10_000 + b"x")
    assert find_text(str(short_tmp / "file")) == "a\ufffd"


def test_what_cannot_be_looked_at_is_an_error(short_tmp: Path) -> None:
    (short_tmp / "loop").symlink_to("loop")
    with pytest.raises(PlatformError, match="cannot be looked at"):
        exists(str(short_tmp / "loop"))
    with pytest.raises(PlatformError, match="cannot be read"):
        find_text(str(short_tmp))
