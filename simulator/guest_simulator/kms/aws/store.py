"""What a simulated AWS knows: access keys, keys of KMS, secrets."""

from dataclasses import dataclass, field
from typing import Final

from guest_simulator.clock import Clock

CURRENT: Final = "AWSCURRENT"
PREVIOUS: Final = "AWSPREVIOUS"


@dataclass(frozen=True, slots=True, kw_only=True)
class AccessKey:
    """What signs.

    Attributes:
        secret: never sent.
        token: sent with each request; empty for a key without end.
    """

    secret: str
    token: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class SecretVersion:
    """One version of a secret: text or bytes."""

    version_id: str
    value: str | bytes
    stages: tuple[str, ...] = ()


@dataclass(slots=True, kw_only=True)
class AwsStore:
    """Everything; change it at any time.

    Attributes:
        clock: dates requests.
        access_keys: by access key id.
        keys: AES keys of 32 bytes by key id or alias.
        secrets: versions by name, the oldest first.
    """

    clock: Clock = field(default_factory=Clock)
    access_keys: dict[str, AccessKey] = field(default_factory=dict)
    keys: dict[str, bytes] = field(default_factory=dict)
    secrets: dict[str, list[SecretVersion]] = field(default_factory=dict)

    def put_secret(self, name: str, value: str | bytes, version_id: str = "") -> str:
        """Add a version, which becomes the current one; its id, a new one if none is given."""
        older = [
            SecretVersion(version_id=v.version_id, value=v.value, stages=(PREVIOUS,))
            for v in self.secrets.get(name, [])
        ]
        version_id = version_id or f"{len(older) + 1:032x}"
        version = SecretVersion(version_id=version_id, value=value, stages=(CURRENT,))
        self.secrets[name] = [*older, version]
        return version_id

    def find_secret(self, name: str, version_id: str, stage: str) -> SecretVersion | None:
        """The version that is meant; without id and stage the current one."""
        wanted = stage or ("" if version_id else CURRENT)
        for version in reversed(self.secrets.get(name, [])):
            if version_id and version.version_id != version_id:
                continue
            if not wanted or wanted in version.stages:
                return version
        return None
