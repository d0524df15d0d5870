"""Resources that are pushed into the guest instead of fetched by it; off by default.

Whoever pushes gets a public key that evidence vouches for, encrypts to it, and hands the result
in. A session serves one attempt, ends by itself, and only so many are open.

Source: docs/spec/confidential-data-hub.md 12.5.
"""

import asyncio
import secrets
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from cdh.config import InjectionConfig
from cdh.credentials import MAX_NAME_BYTES, OCICRYPT_FILE, write_file
from cdh.storage.base import HEADERS, SCRATCH
from guest import jsonio, wire
from guest.crypto.digest import HashAlgorithm
from guest.crypto.key_algorithm import TeeKeyAlgorithm
from guest.crypto.keys import TeeKey
from guest.deadline import Deadline
from guest.errors import (
    DecodeError,
    GuestError,
    IntegrityError,
    InvalidInputError,
    LimitError,
    NotFoundError,
    retold,
)

FAILED: Final = "resource injection failed: "
"""Begins every reason."""

SESSION_BYTES: Final = 16
MAX_NONCE_LENGTH: Final = 4096
"""Characters of the longest nonce."""

LEAST_SIZE: Final = 4096
"""Bytes that a stored resource counts at least: a page of the tmpfs that it lies on."""

OWN_FILES: Final = (HEADERS, SCRATCH, OCICRYPT_FILE)
"""What the hub itself keeps in its folder; nobody pushes over it."""

HASH: Final = HashAlgorithm.SHA384
"""Digests the runtime data that evidence binds."""


class EvidenceSource(Protocol):
    """Who proves what this guest is: the attestation agent."""

    async def get_evidence(self, report_data: bytes, deadline: Deadline) -> bytes:
        """Primary evidence that binds `report_data`."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """What an owner needs to encrypt a resource for this guest.

    Attributes:
        session: names the session, once.
        nonce: as it was given.
        public_key: the JWK's JSON.
        evidence: binds nonce and key.
    """

    session: str
    nonce: str
    public_key: str
    evidence: bytes


@dataclass(frozen=True, slots=True)
class _Session:
    path: str
    key: TeeKey
    ends: Deadline


class ResourceInjection:
    """The sessions of one hub.

    Args:
        config: how many, and how long.
        agent: proves what this guest is.
        folder: resources are put below it.
    """

    def __init__(self, config: InjectionConfig, agent: EvidenceSource, folder: Path) -> None:
        self._config = config
        self._agent = agent
        self._folder = folder
        self._sessions: dict[str, _Session] = {}
        self._preparing = 0
        self._stored: dict[str, int] = {}
        self._storing = threading.Lock()

    async def prepare(self, path: str, nonce: str, deadline: Deadline) -> Prepared:
        """Begin a session for the resource that will lie at `path`.

        Raises:
            InvalidInputError: no such path, no nonce.
            LimitError: too many sessions are open.
            GuestError: the agent has no evidence.
        """
        _parts(path)
        if not nonce:
            raise InvalidInputError(f"{FAILED}nonce must not be empty")
        if len(nonce) > MAX_NONCE_LENGTH:
            raise InvalidInputError(f"{FAILED}nonce is longer than {MAX_NONCE_LENGTH}")
        self._forget_old()
        if len(self._sessions) + self._preparing >= self._config.max_sessions:
            raise LimitError(f"{FAILED}{self._config.max_sessions} sessions are open already")
        key = TeeKey.generate(TeeKeyAlgorithm.EC_P256)
        self._preparing += 1
        try:
            bound = report_data(nonce, key.jwk())
            evidence = await self._agent.get_evidence(bound, deadline)
        except GuestError as error:
            raise retold(error, f"{FAILED}{error}") from error
        finally:
            self._preparing -= 1
        session = wire.encode_base64url(secrets.token_bytes(SESSION_BYTES))
        ends = Deadline.after(self._config.seconds)
        self._sessions[session] = _Session(path, key, ends)
        public_key = jsonio.canonical(key.jwk()).decode()
        return Prepared(session=session, nonce=nonce, public_key=public_key, evidence=evidence)

    async def commit(self, session: str, path: str, encrypted: bytes) -> None:
        """Open what was encrypted for a session and store it; the session is over either way.

        Raises:
            NotFoundError: no such session, or no longer.
            InvalidInputError: another path, or nothing that was encrypted to the session's key.
            IntegrityError: it was encrypted to another key, or changed.
            LimitError: all that was pushed would be too much.
            PlatformError: it cannot be stored.
        """
        self._forget_old()
        found = self._sessions.pop(session, None)
        if found is None:
            shown = f"{session[:40]!r}"
            raise NotFoundError(
                f"{FAILED}resource injection session not found or already used: {shown}"
            )
        if path != found.path:
            raise InvalidInputError(f"{FAILED}resource path mismatch for session {session!r}")
        await asyncio.to_thread(self._store, found, encrypted)

    def close(self) -> None:
        """End all sessions."""
        self._sessions.clear()

    def _store(self, session: _Session, encrypted: bytes) -> None:
        from guest.crypto.jose import open_jwe

        try:
            with open_jwe(encrypted, session.key) as content, self._storing:
                size = max(len(content), LEAST_SIZE)
                others = sum(self._stored.values()) - self._stored.get(session.path, 0)
                if others + size > self._config.max_bytes:
                    limit = self._config.max_bytes
                    raise LimitError(f"{FAILED}more than {limit} bytes would be stored")
                write_file(self._folder, _parts(session.path), content)
                self._stored[session.path] = size
        except DecodeError as error:
            raise InvalidInputError(f"{FAILED}encrypted resource: {error}") from error
        except IntegrityError as error:
            raise IntegrityError(f"{FAILED}encrypted resource: {error}") from error

    def _forget_old(self) -> None:
        for name in [name for name, one in self._sessions.items() if one.ends.is_over()]:
            del self._sessions[name]


def report_data(nonce: str, jwk: Mapping[str, str]) -> bytes:
    """What evidence binds: the digest of nonce and public key in canonical form."""
    return HASH.of(jsonio.canonical({"nonce": nonce, "tee-pubkey": jwk})).value


def _parts(path: str) -> tuple[str, ...]:
    parts = tuple(path.split("/"))
    for part in parts:
        is_long = len(part.encode("utf-8")) > MAX_NAME_BYTES
        if part in ("", ".", "..") or "\0" in part or is_long:
            raise InvalidInputError(f"{FAILED}invalid resource path: {path[:200]!r}")
    if parts[0] in OWN_FILES:
        raise InvalidInputError(f"{FAILED}invalid resource path: {path[:200]!r} is the hub's own")
    return parts
