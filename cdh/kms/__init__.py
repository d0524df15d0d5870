"""The sources of resources, and the key management services, that CDH has."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

import msgspec

from cdh.agent import AgentClient
from cdh.config import CdhConfig
from cdh.keyprovider.packet import AnnotationPacket
from cdh.kms.base import Decrypter, Encrypter, ResourceClient, SecretGetter, SecretKeeper
from cdh.kms.site import KmsSite
from guest.errors import ConfigError, UnsupportedError


class ResourceClientEntry(msgspec.Struct, frozen=True):
    """One source of resources.

    Attributes:
        name: the value of `kbc.name`.
        open: makes the client; imports nothing heavy and connects to nothing yet.
    """

    name: str
    open: Callable[[CdhConfig, AgentClient], ResourceClient]


class DecrypterEntry(msgspec.Struct, frozen=True):
    """One key management service that unwraps keys.

    Attributes:
        name: the packet's `provider`, in lower case.
        open: makes the client from the packet's settings; raises where it needs a site and has
            none.
    """

    name: str
    open: Callable[[AnnotationPacket, KmsSite | None], Decrypter]


class GetterEntry(msgspec.Struct, frozen=True):
    """One service that keeps vault secrets.

    Attributes:
        name: the secret's `provider`, in lower case.
        open: makes the client from the secret's settings and the guest's source of resources;
            raises where it needs a site and has none.
    """

    name: str
    open: Callable[[Mapping[str, object], ResourceClient, KmsSite | None], SecretGetter]


class KeeperEntry(msgspec.Struct, frozen=True):
    """One service that an owner can hand vault secrets to.

    Attributes:
        name: the secret's `provider`, in lower case.
        open: makes the client from the secret's settings and the owner's file of credentials.
    """

    name: str
    open: Callable[[Mapping[str, object], Path, KmsSite | None], SecretKeeper]


class EncrypterEntry(msgspec.Struct, frozen=True):
    """One key management service that an owner can seal envelopes with.

    Attributes:
        name: becomes the secret's `provider`.
        open: makes the client from the flags of `secret seal ... envelope`; reads the files that
            they name, and raises where it needs a site and has none.
    """

    name: str
    open: Callable[[Mapping[str, object], KmsSite | None], Encrypter]


def _open_kbs(config: CdhConfig, agent: AgentClient) -> ResourceClient:
    from cdh.kms.cache import ResourceCache, SharedReads
    from cdh.kms.late import LateClient

    def open_client() -> ResourceClient:
        from cdh.kms.kbs import KbsResources

        return KbsResources.open(config, agent)

    return SharedReads(LateClient(open_client), ResourceCache(config.resource_cache))


def _open_offline_fs(config: CdhConfig, agent: AgentClient) -> ResourceClient:
    from cdh.kms.offline_fs import STANDARD_FILES, OfflineFiles

    del agent
    return OfflineFiles((*STANDARD_FILES, *map(Path, config.kbc.offline_files)))


def _open_kbs_vault(
    settings: Mapping[str, object], resources: ResourceClient, site: KmsSite | None
) -> SecretGetter:
    from cdh.kms.kbs_vault import KbsVault

    del settings, site
    return KbsVault(resources)


def _decrypt_with_aliyun(packet: AnnotationPacket, site: KmsSite | None) -> Decrypter:
    from cdh.kms.aliyun.service import AliyunKms

    return AliyunKms.open(_present(site, "aliyun"), packet.provider_settings)


def _ask_aliyun(
    settings: Mapping[str, object], resources: ResourceClient, site: KmsSite | None
) -> SecretGetter:
    from cdh.kms.aliyun.service import AliyunKms

    del resources
    return AliyunKms.open(_present(site, "aliyun"), settings)


def _seal_with_aliyun(flags: Mapping[str, object], site: KmsSite | None) -> Encrypter:
    from cdh.kms.aliyun.service import AliyunSealer

    return AliyunSealer.open(_present(site, "aliyun"), flags)


def _decrypt_with_aws(packet: AnnotationPacket, site: KmsSite | None) -> Decrypter:
    from cdh.kms.aws.service import AwsKms

    return AwsKms.open(_present(site, "aws"), packet.provider_settings)


def _ask_aws(
    settings: Mapping[str, object], resources: ResourceClient, site: KmsSite | None
) -> SecretGetter:
    from cdh.kms.aws.service import AwsKms

    del resources
    return AwsKms.open(_present(site, "aws"), settings)


def _seal_with_aws(flags: Mapping[str, object], site: KmsSite | None) -> Encrypter:
    from cdh.kms.aws.service import AwsSealer

    return AwsSealer.open(_present(site, "aws"), flags)


def _keep_with_aws(
    settings: Mapping[str, object], credential_file: Path, site: KmsSite | None
) -> SecretKeeper:
    from cdh.kms.aws.service import AwsKeeper

    return AwsKeeper.open(_present(site, "aws"), settings, credential_file)


def _decrypt_with_ehsm(packet: AnnotationPacket, site: KmsSite | None) -> Decrypter:
    from cdh.kms.ehsm.service import EhsmKms

    return EhsmKms.open(_present(site, "ehsm"), packet.provider_settings)


def _seal_with_ehsm(flags: Mapping[str, object], site: KmsSite | None) -> Encrypter:
    from cdh.kms.ehsm.service import EhsmSealer

    return EhsmSealer.open(_present(site, "ehsm"), flags)


def _present(site: KmsSite | None, provider: str) -> KmsSite:
    """The site; a provider whose credentials have no place is none of this guest's."""
    if site is None:
        raise UnsupportedError(f"Unsupported provider: {provider}")
    return site


RESOURCE_CLIENTS: Final = (
    ResourceClientEntry("cc_kbc", _open_kbs),
    ResourceClientEntry("offline_fs_kbc", _open_offline_fs),
)

DECRYPTERS: Final = (
    DecrypterEntry("aliyun", _decrypt_with_aliyun),
    DecrypterEntry("aws", _decrypt_with_aws),
    DecrypterEntry("ehsm", _decrypt_with_ehsm),
)
"""Services whose packets can be opened; `kbs` is none of them."""

GETTERS: Final = (
    GetterEntry("kbs", _open_kbs_vault),
    GetterEntry("aliyun", _ask_aliyun),
    GetterEntry("aws", _ask_aws),
)
"""Services that vault secrets may lie with."""

ENCRYPTERS: Final = (
    EncrypterEntry("aliyun", _seal_with_aliyun),
    EncrypterEntry("aws", _seal_with_aws),
    EncrypterEntry("ehsm", _seal_with_ehsm),
)
"""Services that envelopes can be sealed with."""

KEEPERS: Final = (KeeperEntry("aws", _keep_with_aws),)
"""Services that an owner can hand vault secrets to."""


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


def open_decrypter(packet: AnnotationPacket, site: KmsSite | None = None) -> Decrypter:
    """The service that a packet names, in any case.

    Args:
        packet: names provider and settings.
        site: where credentials lie; None where there are none.

    Raises:
        UnsupportedError: `Unsupported provider: <name>`.
        InvalidInputError: the provider cannot make anything of the settings.
    """
    for entry in DECRYPTERS:
        if entry.name == packet.provider.lower():
            return entry.open(packet, site)
    raise UnsupportedError(f"Unsupported provider: {packet.provider[:100]}")


def open_getter(
    provider: str,
    settings: Mapping[str, object],
    resources: ResourceClient,
    site: KmsSite | None = None,
) -> SecretGetter:
    """The service that a vault secret names, in any case.

    Args:
        provider: its name.
        settings: for it.
        resources: where resources come from.
        site: where credentials lie; None where there are none.

    Raises:
        UnsupportedError: `Unsupported provider: <name>`.
        InvalidInputError: the provider cannot make anything of the settings.
    """
    for entry in GETTERS:
        if entry.name == provider.lower():
            return entry.open(settings, resources, site)
    raise UnsupportedError(f"Unsupported provider: {provider[:100]}")


def open_encrypter(
    provider: str, flags: Mapping[str, object], site: KmsSite | None = None
) -> Encrypter:
    """The service that an owner names.

    Args:
        provider: its name.
        flags: of the command line, by name; the files that they name are read.
        site: gives connections; None where there are none.

    Raises:
        UnsupportedError: `Unsupported provider: <name>`.
        GuestError: a flag or a file is not as specified.
    """
    for entry in ENCRYPTERS:
        if entry.name == provider:
            return entry.open(flags, site)
    raise UnsupportedError(f"Unsupported provider: {provider[:100]}")


def open_keeper(
    provider: str,
    settings: Mapping[str, object],
    credential_file: Path,
    site: KmsSite | None = None,
) -> SecretKeeper:
    """The service that shall keep an owner's vault secret.

    Args:
        provider: its name, in any case.
        settings: as the secret will have them.
        credential_file: of the owner; it is read.
        site: gives connections; None where there are none.

    Raises:
        UnsupportedError: `Unsupported provider: <name>`.
        GuestError: settings or file are not as specified.
    """
    for entry in KEEPERS:
        if entry.name == provider.lower():
            return entry.open(settings, credential_file, site)
    raise UnsupportedError(f"Unsupported provider: {provider[:100]}")
