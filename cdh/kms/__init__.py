"""The sources of resources, and the key management services, that CDH has."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cdh.agent import AgentClient
from cdh.config import CdhConfig
from cdh.keyprovider.packet import AnnotationPacket
from cdh.kms.base import Decrypter, Encrypter, ResourceClient, SecretGetter
from guest.errors import ConfigError, UnsupportedError


@dataclass(frozen=True, slots=True)
class ResourceClientEntry:
    """One source of resources.

    Attributes:
        name: the value of `kbc.name`.
        open: makes the client; imports nothing heavy and connects to nothing yet.
    """

    name: str
    open: Callable[[CdhConfig, AgentClient], ResourceClient]


@dataclass(frozen=True, slots=True)
class DecrypterEntry:
    """One key management service that unwraps keys.

    Attributes:
        name: the packet's `provider`, in lower case.
        open: makes the client from the packet's settings.
    """

    name: str
    open: Callable[[AnnotationPacket], Decrypter]


@dataclass(frozen=True, slots=True)
class GetterEntry:
    """One service that keeps vault secrets.

    Attributes:
        name: the secret's `provider`, in lower case.
        open: makes the client from the secret's settings and the guest's source of resources.
    """

    name: str
    open: Callable[[Mapping[str, object], ResourceClient], SecretGetter]


@dataclass(frozen=True, slots=True)
class EncrypterEntry:
    """One key management service that an owner can seal envelopes with.

    Attributes:
        name: becomes the secret's `provider`.
        open: makes the client from the flags of `secret seal ... envelope`.
    """

    name: str
    open: Callable[[Mapping[str, object]], Encrypter]


def _open_kbs(config: CdhConfig, agent: AgentClient) -> ResourceClient:
    from cdh.kms.late import LateClient

    def open_client() -> ResourceClient:
        from cdh.kms.kbs import KbsResources

        return KbsResources.open(config, agent)

    return LateClient(open_client)


def _open_offline_fs(config: CdhConfig, agent: AgentClient) -> ResourceClient:
    from cdh.kms.offline_fs import STANDARD_FILES, OfflineFiles

    del agent
    return OfflineFiles((*STANDARD_FILES, *map(Path, config.kbc.offline_files)))


def _open_kbs_vault(settings: Mapping[str, object], resources: ResourceClient) -> SecretGetter:
    from cdh.kms.kbs_vault import KbsVault

    del settings
    return KbsVault(resources)


RESOURCE_CLIENTS: Final = (
    ResourceClientEntry("cc_kbc", _open_kbs),
    ResourceClientEntry("offline_fs_kbc", _open_offline_fs),
)

DECRYPTERS: Final[tuple[DecrypterEntry, ...]] = ()
"""Services whose packets can be opened; `kbs` is none of them."""

GETTERS: Final = (GetterEntry("kbs", _open_kbs_vault),)
"""Services that vault secrets may lie with."""

ENCRYPTERS: Final[tuple[EncrypterEntry, ...]] = ()
"""Services that envelopes can be sealed with."""


def open_resource_client(config: CdhConfig, agent: AgentClient) -> ResourceClient:
    """The source that `kbc.name` names.

    Raises:
        ConfigError: there is none of that name.
    """
    for entry in RESOURCE_CLIENTS:
        if entry.name == config.kbc.name:
            return entry.open(config, agent)
    raise ConfigError(
        f"init Hub failed: kbs client creation failed: unknown kbc name {config.kbc.name[:100]}, "
        "only support `cc_kbc`(feature `kbs`) and `offline_fs_kbc`."
    )


def open_decrypter(packet: AnnotationPacket) -> Decrypter:
    """The service that a packet names, in any case.

    Raises:
        UnsupportedError: `Unsupported provider: <name>`.
    """
    for entry in DECRYPTERS:
        if entry.name == packet.provider.lower():
            return entry.open(packet)
    raise UnsupportedError(f"Unsupported provider: {packet.provider[:100]}")


def open_getter(
    provider: str, settings: Mapping[str, object], resources: ResourceClient
) -> SecretGetter:
    """The service that a vault secret names, in any case.

    Raises:
        UnsupportedError: `Unsupported provider: <name>`.
    """
    for entry in GETTERS:
        if entry.name == provider.lower():
            return entry.open(settings, resources)
    raise UnsupportedError(f"Unsupported provider: {provider[:100]}")


def open_encrypter(provider: str, flags: Mapping[str, object]) -> Encrypter:
    """The service that an owner names.

    Raises:
        UnsupportedError: `Unsupported provider: <name>`.
    """
    for entry in ENCRYPTERS:
        if entry.name == provider:
            return entry.open(flags)
    raise UnsupportedError(f"Unsupported provider: {provider[:100]}")
