"""Programmable faults: what a server does wrong, for which requests, how often. Sans-I/O.

A fault is matched by method and path when a request arrives; its effects are applied to the
answer that the honest server would have given.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

KBS_ERROR_URI: Final = "https://github.com/confidential-containers/kbs/errors/"


class Lie(StrEnum):
    """What a server can be told to get wrong in its own protocol."""

    WRONG_NONCE = "wrong-nonce"
    """KBS, `auth`: the challenge carries a nonce that the session does not have. Attestation
    service, `challenge`: it gives another nonce than it notes."""
    NO_COOKIE = "no-cookie"
    """KBS, `auth`: no session cookie is set."""
    EXPIRED_TOKEN = "expired-token"
    """KBS, `attest`: `exp` is an hour ago (and `iat` before it). Registry: a dead bearer token."""
    FUTURE_TOKEN = "future-token"
    """KBS, `attest`: `nbf` is an hour ahead."""
    GARBAGE_TOKEN = "garbage-token"
    """KBS, `attest`: the token is no JWT."""
    FOREIGN_KEY = "foreign-key"
    """KBS, resource: the JWE is made for a key that is not the guest's."""
    DENIAL = "denial"
    """KBS, resource: the policy says no. Registry: 403 DENIED."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One thing that goes wrong.

    Attributes:
        method: HTTP method, empty for any.
        path: regular expression, searched in the raw path with its query.
        times: how many requests it hits; None for all.
        skip: how many matching requests pass unharmed before the first hit.
        delay: seconds that the answer waits.
        drop: close the connection without an answer; the request is not handled.
        status: replaces the status; the body becomes empty unless `body` is given.
        body: replaces the body.
        headers: set in the answer; an empty value removes the header.
        flip: offset of a byte of the body whose lowest bit is inverted; negative from the end.
        resize: bytes by which the body is cut (negative) or padded with zeros (positive), with
            a `Content-Length` that fits.
        cut_after: bytes of the body after which the connection is closed, with the
            `Content-Length` of the whole.
        stall_after: bytes of the body after which nothing more comes and the connection stays.
        lie: an error of the protocol itself.
    """

    method: str = ""
    path: str = ""
    times: int | None = None
    skip: int = 0
    delay: float = 0.0
    drop: bool = False
    status: int | None = None
    body: bytes | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    flip: int | None = None
    resize: int = 0
    cut_after: int | None = None
    stall_after: int | None = None
    lie: Lie | None = None

    def __post_init__(self) -> None:
        re.compile(self.path)

    @property
    def changes_body(self) -> bool:
        """Whether the body must be at hand as bytes."""
        return self.flip is not None or self.resize != 0

    @property
    def changes_answer(self) -> bool:
        """Whether status or body are replaced outright."""
        return self.status is not None or self.body is not None


class ArmedFault:
    """A fault that was added, with its counts.

    Attributes:
        fault: what happens.
        seen: requests that matched.
        hits: requests that were harmed.
    """

    def __init__(self, fault: Fault) -> None:
        self.fault = fault
        self.seen = 0
        self.hits = 0

    def take(self, method: str, path: str) -> bool:
        """Whether this request is harmed; counts it."""
        fault = self.fault
        if fault.method and fault.method != method:
            return False
        if not re.search(fault.path, path):
            return False
        self.seen += 1
        if self.seen <= fault.skip:
            return False
        if fault.times is not None and self.hits >= fault.times:
            return False
        self.hits += 1
        return True


class Faults:
    """The faults of one server, in the order they were added."""

    def __init__(self) -> None:
        self._armed: list[ArmedFault] = []

    def add(self, fault: Fault) -> ArmedFault:
        """Arm a fault; what is given back counts its hits."""
        armed = ArmedFault(fault)
        self._armed.append(armed)
        return armed

    def remove(self, armed: ArmedFault) -> None:
        """Disarm one; nothing happens when it is gone already."""
        self._armed = [other for other in self._armed if other is not armed]

    def clear(self) -> None:
        """Disarm all."""
        self._armed = []

    def take(self, method: str, path: str) -> tuple[Fault, ...]:
        """The faults that hit this request."""
        return tuple(armed.fault for armed in self._armed if armed.take(method, path))


def kbs_error(
    kind: str, detail: str = "", *, path: str = "", status: int = 401, times: int | None = None
) -> Fault:
    """A KBS error answer of any kind, body and missing `Content-Type` as Trustee has them.

    Args:
        kind: the last part of the `type` URI, e.g. `PolicyDeny`.
        detail: the text for people.
        path: regular expression of the requests that get it.
        status: HTTP status.
        times: how many requests get it; None for all.

    Source: docs/spec/kbs-protocol.md §8.
    """
    body = f'{{"type":"{KBS_ERROR_URI}{kind}","detail":"{detail or kind}"}}'.encode()
    return Fault(path=path, status=status, body=body, headers={"Content-Type": ""}, times=times)
