"""Init data documents in an owner's files, in any of their forms."""

import os
import sys
from enum import StrEnum
from pathlib import Path
from typing import Final

from guest.errors import ConfigError, DecodeError
from guest.initdata import MAX_DOCUMENT_BYTES, InitData
from guest.initdata_form import (
    DEVICE_MAGIC,
    MAX_UNPACKED,
    pack,
    pack_device,
    unpack,
    unpack_device,
)

STANDARD: Final = "-"
"""Stands for standard input or output."""

GZIP_MAGIC: Final = b"\x1f\x8b"
TEXT_MAGIC: Final = b"H4sI"
"""What base64 of gzip begins with."""


class Form(StrEnum):
    """What a file holds."""

    TOML = "toml"
    ANNOTATION = "annotation"
    DEVICE = "device"


def read(path: str) -> bytes:
    """All bytes of a file.

    Raises:
        ConfigError: it cannot be read, or is longer than any form of init data.
    """
    limit = MAX_DOCUMENT_BYTES
    try:
        if path == STANDARD:
            content = sys.stdin.buffer.read(limit + 1)
        else:
            with Path(path).open("rb") as file:
                content = file.read(limit + 1)
    except OSError as error:
        raise ConfigError(f"{path} cannot be read") from error
    if len(content) > limit:
        raise ConfigError(f"{path} is longer than {limit} bytes")
    return content


def read_text(path: str) -> str:
    """A file's text, its line ends as they are.

    Raises:
        ConfigError: as `read`, or it is not UTF-8.
    """
    try:
        return read(path).decode("utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not UTF-8") from error


def load(path: str) -> InitData:
    """The document in a file, whichever form it has.

    Raises:
        ConfigError: it cannot be read, or holds no init data.
    """
    content = read(path)
    try:
        return InitData.parse(_document(content))
    except DecodeError as error:
        raise ConfigError(f"{path} holds no init data") from error


def _document(content: bytes) -> bytes:
    """A form says itself what it is: no TOML document of ours begins like base64 of gzip."""
    if content.startswith(DEVICE_MAGIC) and content[16:18] == GZIP_MAGIC:
        return unpack_device(content)
    return unpack(content.strip()) if content.lstrip().startswith(TEXT_MAGIC) else content


def save(document: InitData, form: Form, path: str) -> None:
    """Write a document; a file appears whole or not at all.

    Raises:
        ConfigError: it is longer than a guest unpacks, or cannot be written.
    """
    if len(document.content) > MAX_UNPACKED:
        raise ConfigError(f"init data is longer than {MAX_UNPACKED} bytes, which no guest unpacks")
    match form:
        case Form.TOML:
            content = document.content
        case Form.ANNOTATION:
            content = pack(document.content).encode() + b"\n"
        case Form.DEVICE:
            content = pack_device(document.content)
    if path == STANDARD:
        sys.stdout.buffer.write(content)
        sys.stdout.buffer.flush()
        return
    target, beside = Path(path), Path(f"{path}.{os.getpid()}.new")
    try:
        beside.write_bytes(content)
        beside.replace(target)
    except OSError as error:
        beside.unlink(missing_ok=True)
        raise ConfigError(f"{path} cannot be written") from error
