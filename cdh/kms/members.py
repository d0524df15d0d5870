"""Members of what secrets and packets say of their key management service. Sans-I/O.

They are public and chosen by whoever sealed the secret: every id that becomes part of a host or a
file name has a fixed alphabet.

Source: docs/spec/confidential-data-hub.md 8.1.
"""

import re
from collections.abc import Mapping
from typing import Final

from guest.errors import DecodeError

MAX_ID_LENGTH: Final = 128
"""Most characters of an id."""

_ID: Final = re.compile(r"[A-Za-z0-9](?:[._-]?[A-Za-z0-9])*\Z")


def verify_id(text: str, what: str) -> str:
    """Letters, digits and single `.`, `_`, `-` between them: fit for hosts and file names.

    Raises:
        DecodeError: anything else.
    """
    if len(text) > MAX_ID_LENGTH or not _ID.match(text):
        raise DecodeError(f"{what} {text[:40]!r} is no id")
    return text


def id_member(members: Mapping[str, object], name: str) -> str:
    """A member that must be there and be an id.

    Raises:
        DecodeError: it is not.
    """
    return verify_id(text_member(members, name), name)


def text_member(members: Mapping[str, object], name: str) -> str:
    """A member that must be there and be a printable text that is not empty.

    Raises:
        DecodeError: it is not.
    """
    value = verify_text(members.get(name, ""), name)
    if not value:
        raise DecodeError(f"{name} is missing")
    return value


def verify_text(value: object, name: str) -> str:
    """A printable text, perhaps an empty one.

    Raises:
        DecodeError: it is something else.
    """
    if not isinstance(value, str) or not value.isprintable():
        raise DecodeError(f"{name} is no printable string")
    return value
