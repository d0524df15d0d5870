"""The store: one boot, one format, one process; nothing else is touched."""

from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guest.errors import DecodeError, PlatformError
from image_pull.store.meta import FORMAT, Header, Store, read_boot_id

BOOT = "11111111-2222-3333-4444-555555555555"


def filled(root: Path) -> None:
    for name in ("unpacked", "staging", "mounts"):
        (root / name / "thing" / "tree").mkdir(parents=True)
        (root / name / "thing" / "tree" / "file").write_bytes(b"x")


def reopened(root: Path, boot_id: str) -> None:
    Store.open(root, boot_id).close()


def test_layers_stay_for_the_next_process_of_the_boot_and_what_was_under_way_goes(
    tmp_path: Path,
) -> None:
    reopened(tmp_path, BOOT)
    filled(tmp_path)
    reopened(tmp_path, BOOT)
    assert (tmp_path / "unpacked" / "thing" / "tree" / "file").exists()
    assert (tmp_path / "mounts" / "thing").exists()
    assert list((tmp_path / "staging").iterdir()) == []


@pytest.mark.parametrize(
    "header",
    [
        f'{{"format": {FORMAT}, "boot_id": "another"}}',
        f'{{"format": {FORMAT + 1}, "boot_id": "{BOOT}"}}',
        f'{{"format": {FORMAT}, "boot_id": "{BOOT}", "more": 1}}',
        '{"format"',
        None,
    ],
)
def test_what_another_boot_or_format_left_is_deleted_and_nothing_else(
    header: str | None, tmp_path: Path
) -> None:
    filled(tmp_path)
    (tmp_path / "lost+found").mkdir()
    (tmp_path / "layers" / "0").mkdir(parents=True)
    (tmp_path / "meta_store.json").write_text("{}")
    if header is not None:
        (tmp_path / "store.json").write_text(header)
    reopened(tmp_path, BOOT)
    for name in ("unpacked", "staging", "mounts"):
        assert list((tmp_path / name).iterdir()) == []
    assert (tmp_path / "lost+found").exists()
    assert (tmp_path / "layers" / "0").exists()
    assert (tmp_path / "meta_store.json").exists()
    assert Header.decode((tmp_path / "store.json").read_bytes()) == Header(
        format=FORMAT, boot_id=BOOT
    )


def test_links_of_our_names_are_removed_and_not_followed(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "file").write_bytes(b"x")
    root = tmp_path / "work"
    root.mkdir()
    (root / "unpacked").symlink_to(outside)
    reopened(root, BOOT)
    assert (outside / "file").exists()
    assert not (root / "unpacked").is_symlink()


def test_two_processes_cannot_have_one_store(tmp_path: Path) -> None:
    store = Store.open(tmp_path, BOOT)
    with pytest.raises(PlatformError, match="used by another process"):
        Store.open(tmp_path, BOOT)
    store.close()
    reopened(tmp_path, BOOT)


def test_a_work_directory_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(PlatformError, match="cannot be used"):
        Store.open(tmp_path / "file" / "work", BOOT)


def test_the_kernel_has_a_boot_id() -> None:
    assert len(read_boot_id()) == 36
    assert read_boot_id() == read_boot_id()


@given(st.binary(max_size=60))
def test_any_bytes_give_a_header_or_a_decode_error(data: bytes) -> None:
    with suppress(DecodeError):
        Header.decode(data)
