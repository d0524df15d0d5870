"""Arguments of mkfs.ext4, and its dry run."""

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdh.storage.mkfs import parse_options, superblocks, with_integrity
from guest.errors import DecodeError


@pytest.mark.spec("confidential-data-hub", 47)
@pytest.mark.parametrize(
    ("options", "result"),
    [
        ("", "-E lazy_itable_init=0"),
        ("-m 0", "-m 0 -E lazy_itable_init=0"),
        ("-E lazy_journal_init", "-E lazy_journal_init,lazy_itable_init=0"),
        ("-Enodiscard", "-Enodiscard,lazy_itable_init=0"),
        ("-E lazy_itable_init=1", "-E lazy_itable_init=1"),
        # the last separate one rules over the last joined one
        ("-E a -Eb -E c -m 0", "-E a -Eb -E c,lazy_itable_init=0 -m 0"),
        ("-E a -Eb", "-E a,lazy_itable_init=0 -Eb"),
        ("-Ea -Eb", "-Ea -Eb,lazy_itable_init=0"),
    ],
)
def test_eager_inode_tables_are_merged_into_the_options(options: str, result: str) -> None:
    assert with_integrity(parse_options(options)) == tuple(result.split())


def test_white_space_splits_and_quotes_mean_nothing() -> None:
    assert parse_options(" -m\t0\n-L  'a ") == ("-m", "0", "-L", "'a")


@pytest.mark.parametrize("text", ["-O ^has_journal -m 0 -i 163840 -I 128", "-E lazy_journal_init"])
def test_what_kata_sends_is_let_through(text: str) -> None:
    assert parse_options(text) == tuple(text.split())


@pytest.mark.parametrize(
    "text",
    [
        "-z /etc/passwd", "-z/etc/passwd", "-qz /x", "-d /etc", "-l /x", "-J device=/dev/vdb",
        "-Jdevice=/dev/vdb", "-c", "-t ext2", "-n", "-S", "--help", "-", "/dev/vda", "100", "-m",
        "-E", "-Fd /x", "-m 0\0", "-m 0 " * 33, "-L " + "x" * 1100,
    ],
)  # fmt: skip
def test_an_option_that_reaches_beyond_the_file_system_is_refused(text: str) -> None:
    with pytest.raises(DecodeError):
        parse_options(text)


def test_superblocks_are_the_first_and_its_backups() -> None:
    text = b"x 99\nSuperblock backups stored on blocks: \n\t32768, 98304, \n\t163840\n\n7\n"
    assert superblocks(text) == (0, 32768, 98304, 163840)
    assert superblocks(b"Creating filesystem with 16384 4k blocks\n") == (0,)
    for wrong in (b"", b" x", b" " + b"1," * 2000 + b"1"):
        with pytest.raises(DecodeError):
            superblocks(b"Superblock backups stored on blocks:" + wrong)


@given(st.text(max_size=80), st.binary(max_size=80))
def test_any_text_gives_options_or_a_decode_error(text: str, output: bytes) -> None:
    with suppress(DecodeError):
        options = parse_options(text)
        assert parse_options(" ".join(options)) == options
        assert len(with_integrity(options)) <= len(options) + 2
    with suppress(DecodeError):
        assert superblocks(b"Superblock backups stored on blocks:" + output)[0] == 0
