"""Credential files: the first folder that has one counts, and what may be named is bounded."""

import os
from pathlib import Path

import pytest

from cdh.kms.files import MAX_FILE_LENGTH, CredentialFiles, find_file, read_below
from guest.errors import InvalidInputError, NotFoundError, PlatformError


def test_the_first_folder_that_has_a_file_counts(tmp_path: Path) -> None:
    first, second = tmp_path / "1", tmp_path / "2"
    second.mkdir()
    (second / "a").write_bytes(b"second")
    files = CredentialFiles((first, second))
    assert files.read("a").reveal() == b"second"
    first.mkdir()
    (first / "a").write_bytes(b"first")
    assert files.read("a").reveal() == b"first"
    with pytest.raises(NotFoundError, match="no credential file b in"):
        files.read("b")
    (first / "c").symlink_to(second / "a")
    assert files.read("c").reveal() == b"second"


def test_only_regular_files_of_bounded_length_are_read_and_no_descriptor_stays(
    tmp_path: Path,
) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "long").write_bytes(bytes(MAX_FILE_LENGTH + 1))
    (tmp_path / "fits").write_bytes(bytes(MAX_FILE_LENGTH))
    before = len(os.listdir("/proc/self/fd"))
    for name, words in (("pipe", "no regular"), (".", "no regular"), ("long", "more than")):
        with pytest.raises(PlatformError, match=words):
            find_file(tmp_path / name)
    with pytest.raises(PlatformError, match="cannot read"):
        find_file(tmp_path / ("x" * 300))
    assert find_file(tmp_path / "fits" / "below") is None
    found = find_file(tmp_path / "fits")
    assert found is not None
    assert len(found) == MAX_FILE_LENGTH
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_named_file_must_lie_below_the_root_links_followed(tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    (root / "in").write_bytes(b"in")
    (tmp_path / "out").write_bytes(b"out")
    (root / "link").symlink_to(tmp_path / "out")
    (root / "inner").symlink_to(root / "in")
    (tmp_path / "alias").symlink_to(root)
    (tmp_path / "rootx").write_bytes(b"x")
    assert read_below(root, f"{root}/in").reveal() == b"in"
    assert read_below(root, f"{root}/inner").reveal() == b"in"
    assert read_below(tmp_path / "alias", f"{root}/in").reveal() == b"in"
    assert read_below(root, f"{tmp_path}/alias/in").reveal() == b"in"
    for path in ("in", "", f"{root}/../out", f"{root}/link", f"{root}x", str(root), "/a\0b"):
        with pytest.raises(InvalidInputError, match="path"):
            read_below(root, path)
    with pytest.raises(NotFoundError):
        read_below(root, f"{root}/none")
