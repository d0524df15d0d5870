"""Answers of key management services that are none, and how peers' texts are shown. Sans-I/O.

Source: docs/spec/confidential-data-hub.md 8.2.
"""

import re
from typing import Final

from guest.errors import GuestError, PeerError, UnavailableError

TRANSIENT_STATUSES: Final = frozenset({429, 502, 503, 504})

MAX_SHOWN: Final = 200
"""Most characters of a peer's text that an error repeats."""

_UNSPEAKABLE: Final = re.compile(r"[^ -~]+")


def foreign_answer(status: int, body: bytes) -> GuestError:
    """The error for an answer that is not the service's: a proxy's page, a cut body.

    Its text has the beginning of what came, unless that is an answer of success, which may hold a
    secret.
    """
    text = f"unexpected answer with HTTP status {status}"
    if not 200 <= status < 300:
        text = f"{text}: {shown(body[:MAX_SHOWN].decode('ascii', 'replace'))}"
    if status in TRANSIENT_STATUSES:
        return UnavailableError(text)
    return PeerError(text)


def shown(text: str) -> str:
    """A peer's text as an error may have it: one line of printable ASCII, at most `MAX_SHOWN`."""
    return _UNSPEAKABLE.sub(" ", text)[:MAX_SHOWN].strip()
