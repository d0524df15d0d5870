"""What a simulated Alibaba Cloud knows: client keys, keys, secrets, roles, access keys."""

import secrets
from dataclasses import dataclass, field
from typing import Final

from cryptography.hazmat.primitives.asymmetric import rsa

from guest_simulator.clock import Clock

CURRENT: Final = "ACSCurrent"
"""The stage of the newest version of a secret."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SecretVersion:
    """One version of a secret."""

    version_id: str
    data: str
    stages: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class IssuedKey:
    """A temporary access key.

    Attributes:
        expires: seconds since the epoch.
    """

    key_id: str
    secret: str
    token: str
    expires: float


@dataclass(slots=True, kw_only=True)
class AliyunStore:
    """Everything; change it at any time.

    Attributes:
        clock: dates requests and keys.
        clients: public keys by client key id.
        keys: AES keys of 32 bytes by key id or alias.
        secrets: versions by name, the oldest first.
        access_keys: by access key id.
        roles: what the metadata server knows, by name.
        id_tokens: identity token to the ARN of the role it may assume.
        key_seconds: life of a temporary access key.
        nonces: of the shared gateway, so that none comes twice.
        issued: how many temporary access keys were given.
    """

    clock: Clock = field(default_factory=Clock)
    clients: dict[str, rsa.RSAPublicKey] = field(default_factory=dict)
    keys: dict[str, bytes] = field(default_factory=dict)
    secrets: dict[str, list[SecretVersion]] = field(default_factory=dict)
    access_keys: dict[str, IssuedKey] = field(default_factory=dict)
    roles: set[str] = field(default_factory=set)
    id_tokens: dict[str, str] = field(default_factory=dict)
    key_seconds: float = 3600.0
    nonces: set[str] = field(default_factory=set)
    issued: int = 0

    def put_secret(self, name: str, data: str) -> str:
        """Add a version, which becomes the current one; its id."""
        older = [
            SecretVersion(version_id=v.version_id, data=v.data, stages=("ACSPrevious",))
            for v in self.secrets.get(name, [])
        ]
        version = SecretVersion(version_id=f"v{len(older) + 1}", data=data, stages=(CURRENT,))
        self.secrets[name] = [*older, version]
        return version.version_id

    def find_secret(self, name: str, stage: str, version_id: str) -> SecretVersion | None:
        """The version that is meant; without stage and id the current one."""
        wanted = stage or ("" if version_id else CURRENT)
        for version in reversed(self.secrets.get(name, [])):
            if version_id and version.version_id != version_id:
                continue
            if not wanted or wanted in version.stages:
                return version
        return None

    def issue(self) -> IssuedKey:
        """A new temporary access key."""
        key = IssuedKey(
            key_id=f"STS.{secrets.token_hex(8)}",
            secret=secrets.token_urlsafe(24),
            token=f"CAIS+{secrets.token_urlsafe(24)}/==",
            expires=self.clock.now() + self.key_seconds,
        )
        self.access_keys[key.key_id] = key
        self.issued += 1
        return key
