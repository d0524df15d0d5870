"""The options of a bucket, as text from an untrusted caller. Sans-I/O.

Source: docs/spec/confidential-data-hub.md 10.5.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from guest.errors import DecodeError

REQUIRED: Final = (
    "akId", "akSecret", "bucket", "otherOpts", "path", "readonly", "targetPath", "url", "volumeId",
)  # fmt: skip
"""Options that must be there; those not read below have no effect."""

GOCRYPTFS: Final = "gocryptfs"
MAX_LENGTH: Final = 2048
MAX_OTHER: Final = 64
"""Most characters of a bucket's name, path, address and further options; most further options."""

FORBIDDEN: Final = ("passwd_file", "url")
"""Must not occur in further options, which would say where the data and the password go."""

_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f]")
_BUCKET: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}\Z")
_NOT_IN_URL: Final = re.compile(r"[\s,\\]")
_ASCII_SPACE: Final = re.compile(r"[ \t\n\f\r]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class OssOptions:
    """One request; the first three may each be a sealed secret.

    Attributes:
        access_key_id: of the account.
        access_key_secret: of the account.
        password: of gocryptfs.
        bucket: its name.
        path: what of the bucket is mounted.
        url: where the bucket is.
        other: further arguments of `ossfs`.
        gocryptfs: what is in the bucket is encrypted.
    """

    access_key_id: str = field(repr=False)
    access_key_secret: str = field(repr=False)
    password: str = field(repr=False)
    bucket: str
    path: str
    url: str
    other: tuple[str, ...]
    gocryptfs: bool


def parse_oss(options: Mapping[str, str]) -> OssOptions:
    """Read the options of `alibaba-cloud-oss`; unknown ones are ignored.

    Raises:
        DecodeError: one is missing or has no value that it can have; names it.
    """
    for name in REQUIRED:
        if name not in options:
            raise DecodeError(f"option {name} is missing")
    for name in ("bucket", "path", "url", "otherOpts"):
        if len(options[name]) > MAX_LENGTH or _CONTROL.search(options[name]):
            raise DecodeError(f"option {name} is too long or has a control character")
    if not _BUCKET.match(options["bucket"]):
        raise DecodeError(f"option bucket cannot be {options['bucket'][:40]!r}")
    if not options["url"] or _NOT_IN_URL.search(options["url"]):
        raise DecodeError("option url is empty, or has white space, a comma or a backslash")
    encrypted = options.get("encrypted", "")
    if encrypted not in ("", GOCRYPTFS):
        raise DecodeError(f"option encrypted cannot be {encrypted[:40]!r}")
    return OssOptions(
        access_key_id=options["akId"],
        access_key_secret=options["akSecret"],
        password=options.get("encPasswd", ""),
        bucket=options["bucket"],
        path=options["path"],
        url=options["url"],
        other=_split_other(options["otherOpts"]),
        gocryptfs=encrypted == GOCRYPTFS,
    )


def _split_other(text: str) -> tuple[str, ...]:
    if any(word in text.lower() for word in FORBIDDEN) or "\\" in text:
        raise DecodeError(f"option otherOpts has a backslash or one of {', '.join(FORBIDDEN)}")
    other = tuple(part for part in _ASCII_SPACE.split(text) if part)
    if len(other) > MAX_OTHER:
        raise DecodeError(f"option otherOpts has more than {MAX_OTHER} parts")
    return other


def encode_password_file(bucket: str, access_key_id: bytes, access_key_secret: bytes) -> bytes:
    """The password file of `ossfs`: one line, without its end.

    Raises:
        DecodeError: a part is not UTF-8 or would break the line.
    """
    for name, part in (("akId", access_key_id), ("akSecret", access_key_secret)):
        try:
            text = part.decode("utf-8")
        except UnicodeDecodeError:
            # Not the cause: it repeats what it could not read.
            raise DecodeError(f"option {name} is not UTF-8") from None
        if _CONTROL.search(text) or (name == "akId" and ":" in text):
            raise DecodeError(f"option {name} has a character that it cannot have")
    return b":".join((bucket.encode(), access_key_id, access_key_secret))
