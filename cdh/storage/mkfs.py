"""Arguments of `mkfs.ext4`, and what its dry run says. Sans-I/O.

Source: docs/spec/confidential-data-hub.md 10.3, step 5.
"""

import re
from collections.abc import Sequence
from typing import Final

from guest.errors import DecodeError

LAZY: Final = "lazy_itable_init"
EAGER: Final = f"{LAZY}=0"
"""Has every inode table written at once, so that all sectors get valid tags."""

BACKUPS: Final = b"Superblock backups stored on blocks:"
MAX_BLOCKS: Final = 1024
MAX_OPTIONS: Final = 64
MAX_LENGTH: Final = 1024
"""Most options, and most characters of them together."""

FLAG_LETTERS: Final = "DFjKqv"
VALUE_LETTERS: Final = "bCEgGiIJLmMNoOrTU"
"""Options of `mkfs.ext4` without and with a value that a caller may give."""

_NUMBERS: Final = re.compile(rb"[ \t\r\n]*([0-9]{1,18}(?:[ \t\r\n]*,[ \t\r\n]*[0-9]{1,18})*)")
_ASCII_SPACE: Final = re.compile(r"[ \t\n\f\r]+")


def parse_options(text: str) -> tuple[str, ...]:
    """Split on ASCII white space; quotes mean nothing.

    The text comes from outside the guest. Options that name a file or another device (`-z`, `-d`,
    `-l`, `-J device=`) would have the program write or read there, so only the options that
    shape a file system are let through, and nothing that is no option.

    Raises:
        DecodeError: too many, one with a NUL, or one that is not let through.
    """
    options = tuple(part for part in _ASCII_SPACE.split(text) if part)
    if len(options) > MAX_OPTIONS or len(text) > MAX_LENGTH or "\0" in text:
        raise DecodeError(f"more than {MAX_OPTIONS} options, too long ones, or one with a NUL")
    rest = iter(options)
    for option in rest:
        if not option.startswith("-") or option.startswith("--") or option == "-":
            raise DecodeError(f"{option[:40]!r} is no option")
        letters = option[1:]
        while letters and letters[0] in FLAG_LETTERS:
            letters = letters[1:]
        if not letters:
            continue
        letter, value = letters[0], letters[1:]
        if letter not in VALUE_LETTERS:
            raise DecodeError(f"option -{letter[:1]} is not let through")
        value = value or next(rest, "")
        if not value or (letter == "J" and "device" in value):
            raise DecodeError(f"option -{letter} cannot be {value[:40]!r}")
    return options


def with_integrity(options: Sequence[str]) -> tuple[str, ...]:
    """The options with `lazy_itable_init=0`, unless they say something about it."""
    if any(LAZY in option for option in options):
        return tuple(options)
    merged = list(options)
    for index in range(len(merged) - 2, -1, -1):
        if merged[index] == "-E":
            merged[index + 1] += f",{EAGER}"
            return tuple(merged)
    for index in range(len(merged) - 1, -1, -1):
        if merged[index].startswith("-E") and len(merged[index]) > 2:
            merged[index] += f",{EAGER}"
            return tuple(merged)
    return (*merged, "-E", EAGER)


def superblocks(output: bytes) -> tuple[int, ...]:
    """The blocks of all superblocks, the first one's (0) first.

    Args:
        output: what `mkfs.ext4 -n` wrote. A small device has no backups.

    Raises:
        DecodeError: backups are announced and not listed, or too many are.
    """
    _, found, rest = output.partition(BACKUPS)
    if not found:
        return (0,)
    match = _NUMBERS.match(rest)
    if match is None:
        raise DecodeError("mkfs.ext4 announces superblock backups and names none")
    blocks = tuple(int(number) for number in match[1].split(b","))
    if len(blocks) > MAX_BLOCKS:
        raise DecodeError(f"mkfs.ext4 names more than {MAX_BLOCKS} superblock backups")
    return (0, *(block for block in blocks if block))
