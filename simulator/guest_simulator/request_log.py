"""What a server was asked: one record a request."""

import re
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

LOG_LENGTH: Final = 200_000
"""Requests that a log remembers."""

LOGGED_HEADERS: Final = (
    "aainstanceinfo",
    "accept",
    "accept-encoding",
    "attestation",
    "authorization",
    "content-length",
    "content-type",
    "cookie",
    "host",
    "range",
    "user-agent",
    "x-amz-target",
    "x-request-id",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestRecord:
    """One request that was answered (or refused an answer).

    Attributes:
        path: raw path without the query.
        status: as sent; 0 when the connection was dropped without an answer.
        headers: lower-case names, those of `LOGGED_HEADERS` only.
        started: `time.monotonic()` at arrival, in seconds.
        seconds: from arrival to the last byte handed to the kernel.
        sent: bytes of body that were sent.
    """

    method: str
    path: str
    query: str
    status: int
    headers: Mapping[str, str]
    started: float
    seconds: float
    sent: int


class RequestLog:
    """The requests of one server, oldest first; `LOG_LENGTH` at most."""

    def __init__(self) -> None:
        self._records: deque[RequestRecord] = deque(maxlen=LOG_LENGTH)

    def __len__(self) -> int:
        return len(self._records)

    def __iter__(self) -> Iterator[RequestRecord]:
        return iter(tuple(self._records))

    def __getitem__(self, index: int) -> RequestRecord:
        return self._records[index]

    def add(self, record: RequestRecord) -> None:
        """Append one."""
        self._records.append(record)

    def clear(self) -> None:
        """Forget all."""
        self._records.clear()

    def matching(
        self, method: str = "", path: str = "", status: int | None = None
    ) -> list[RequestRecord]:
        """Those with this method, whose path contains this regular expression."""
        return [
            record
            for record in self._records
            if (not method or record.method == method)
            and re.search(path, record.path)
            and (status is None or record.status == status)
        ]

    def count(self, method: str = "", path: str = "", status: int | None = None) -> int:
        """How many match, see `matching`."""
        return len(self.matching(method, path, status))
