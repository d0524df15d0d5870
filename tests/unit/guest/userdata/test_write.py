"""The directory of a pod VM: whole files, all or none, no links."""

import os
import stat
from pathlib import Path

import pytest

from guest.errors import LimitError, PlatformError
from guest.userdata.write import PeerPodDirectory, find_file


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


def test_directories_and_files_have_the_modes_asked_for_whatever_the_umask(tmp_path: Path) -> None:
    path = tmp_path / "run" / "peerpod"
    before = os.umask(0o077)
    try:
        with PeerPodDirectory(path) as directory:
            directory.replace({"a": b"1", "b": b""}, mode=0o644, unwanted=())
    finally:
        os.umask(before)
    assert (mode_of(path), mode_of(path.parent)) == (0o755, 0o755)
    assert [mode_of(path / name) for name in "ab"] == [0o644, 0o644]
    assert sorted(os.listdir(path)) == ["a", "b"]


def test_a_link_in_the_place_of_a_file_is_replaced_and_never_followed(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("untouched")
    path = tmp_path / "peerpod"
    path.mkdir()
    (path / "aa.toml").symlink_to(victim)
    (path / ".aa.toml.new").symlink_to(victim)
    with PeerPodDirectory(path) as directory:
        with pytest.raises(PlatformError, match="cannot be opened"):
            directory.find("aa.toml", 10)
        directory.replace({"aa.toml": b"new"}, mode=0o644, unwanted=())
    assert victim.read_text() == "untouched"
    assert not (path / "aa.toml").is_symlink()
    assert (path / "aa.toml").read_bytes() == b"new"


@pytest.mark.parametrize("link", ["run", "run/peerpod"])
def test_a_link_on_the_way_to_the_directory_is_refused(tmp_path: Path, link: str) -> None:
    target = tmp_path / "elsewhere"
    (target / "peerpod").mkdir(parents=True)
    (tmp_path / link).parent.mkdir(exist_ok=True)
    (tmp_path / link).symlink_to(target)
    with pytest.raises(PlatformError):
        PeerPodDirectory(tmp_path / "run" / "peerpod")
    assert os.listdir(target / "peerpod") == []


def test_when_one_file_cannot_be_written_none_appears(tmp_path: Path) -> None:
    (tmp_path / "old").write_text("stays")
    (tmp_path / ".b.new").mkdir()
    with PeerPodDirectory(tmp_path) as directory:
        with pytest.raises(PlatformError):
            directory.replace({"a": b"1", "b": b"2"}, mode=0o644, unwanted=("old",))
    assert sorted(os.listdir(tmp_path)) == [".b.new", "old"]


def test_unwanted_files_go_and_those_that_are_not_there_do_no_harm(tmp_path: Path) -> None:
    (tmp_path / "aa.toml").write_text("host's")
    with PeerPodDirectory(tmp_path) as directory:
        directory.replace({"x": b""}, mode=0o600, unwanted=("aa.toml", "cdh.toml"))
    assert os.listdir(tmp_path) == ["x"]
    assert mode_of(tmp_path / "x") == 0o600


def test_a_file_is_read_within_its_limit_and_absent_is_none(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"12345")
    with PeerPodDirectory(tmp_path) as directory:
        assert directory.find("f", 5) == b"12345"
        assert directory.find("g", 5) is None
        with pytest.raises(LimitError):
            directory.find("f", 4)


def test_what_is_no_regular_file_is_an_error_and_does_not_hang(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("x")
    for name in ("pipe", "folder", "file/below"):
        with pytest.raises(PlatformError):
            find_file(tmp_path / name, 10)
