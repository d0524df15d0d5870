"""Alibaba Cloud KMS as CDH uses it: one client type behind each secret or packet, errors worded.

Source: docs/spec/confidential-data-hub.md 8.1 to 8.5, 12.3 and 12.4.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Final, Self, assert_never

from cdh.files import read_given
from cdh.kms.aliyun.attested import AttestedInstance
from cdh.kms.aliyun.client_key import open_client_key
from cdh.kms.aliyun.gateway import (
    InstanceCredentials,
    InstanceGateway,
    parse_authority,
    read_credentials,
)
from cdh.kms.aliyun.settings import (
    AttestationSettings,
    ClientKeySettings,
    EcsRamRoleSettings,
    OidcRamSettings,
    Settings,
    StsTokenSettings,
    parse_settings,
)
from cdh.kms.aliyun.shared import AssumedRole, MachineRole, SharedGateway, TokenFile
from cdh.kms.calls import refused, worded
from cdh.kms.files import MAX_FILE_LENGTH
from cdh.kms.members import verify_id
from cdh.kms.site import KmsSite
from guest import wire
from guest.deadline import Deadline
from guest.errors import DecodeError, UnsupportedError
from guest.secret import Secret

PROVIDER: Final = "aliyun"
NAME: Final = "Aliyun KMS"


class AliyunKms:
    """A `Decrypter` and a `SecretGetter` for the settings of one secret or packet.

    Only a client key decrypts; every client type gives secrets.
    """

    def __init__(self, site: KmsSite, settings: Settings) -> None:
        self._gateway = _open_gateway(site, settings)

    @classmethod
    def open(cls, site: KmsSite, settings: Mapping[str, object]) -> Self:
        """Choose the client; nothing is read or sent yet.

        Raises:
            InvalidInputError: the settings are not as specified.
        """
        try:
            return cls(site, parse_settings(settings))
        except DecodeError as error:
            raise refused(NAME, error) from error.__cause__

    async def decrypt(
        self, ciphertext: bytes, key_id: str, annotations: Mapping[str, object], deadline: Deadline
    ) -> Secret:
        """The plaintext under the instance's key; see `cdh.kms.base.Decrypter`.

        Raises:
            UnsupportedError: this client type cannot decrypt.
            GuestError: `Aliyun KMS error: ...`.
        """
        gateway = self._gateway
        if not isinstance(gateway, InstanceGateway):
            raise UnsupportedError(f"{NAME} error: this client type cannot decrypt")
        return await worded(
            NAME, lambda: gateway.decrypt(ciphertext, key_id, annotations, deadline)
        )

    async def get_secret(
        self, name: str, annotations: Mapping[str, object], deadline: Deadline
    ) -> Secret:
        """A secret by name; see `cdh.kms.base.SecretGetter`.

        Raises:
            GuestError: `Aliyun KMS error: ...`.
        """
        return await worded(NAME, lambda: self._gateway.get_secret(name, annotations, deadline))


class AliyunSealer:
    """An `Encrypter` with the files that an owner names.

    Args:
        site: gives connections.
        kms_instance_id: verified.
        credentials: of the instance.
    """

    def __init__(
        self, site: KmsSite, kms_instance_id: str, credentials: InstanceCredentials
    ) -> None:
        self._gateway = InstanceGateway(site, kms_instance_id, lambda: credentials)
        self.settings: Mapping[str, object] = {
            "client_type": "client_key",
            "client_key_id": credentials.key.key_id,
            "kms_instance_id": kms_instance_id,
        }

    @classmethod
    def open(cls, site: KmsSite, flags: Mapping[str, object]) -> Self:
        """Read the files that the flags of `secret seal ... ali` name; blocks.

        Raises:
            GuestError: a file cannot be read or is not as specified; the instance id is none.
        """
        try:
            instance_id = verify_id(str(flags["kms_instance_id"]), "kms_instance_id")
        except DecodeError as error:
            raise refused(NAME, error) from error.__cause__
        document, password, authority = (
            read_given(Path(str(flags[name])), MAX_FILE_LENGTH)
            for name in ("client_key_file_path", "password_file_path", "cert_path")
        )
        key = open_client_key(document, password)
        credentials = InstanceCredentials(key=key, authority=parse_authority(authority))
        return cls(site, instance_id, credentials)

    async def encrypt(
        self, plaintext: Secret, key_id: str, deadline: Deadline
    ) -> tuple[bytes, Mapping[str, object]]:
        """The ciphertext under the instance's key, and its IV as annotation.

        Raises:
            GuestError: `Aliyun KMS error: ...`.
        """
        ciphertext, iv = await worded(
            NAME, lambda: self._gateway.encrypt(plaintext, key_id, deadline)
        )
        return ciphertext, {"iv": wire.encode_base64(iv)}


def _open_gateway(
    site: KmsSite, settings: Settings
) -> InstanceGateway | SharedGateway | AttestedInstance:
    config = site.config.kms.aliyun
    files = site.credentials(PROVIDER, config.in_guest_key_path)
    match settings:
        case ClientKeySettings():
            return InstanceGateway(
                site, settings.kms_instance_id, lambda: read_credentials(files, settings)
            )
        case StsTokenSettings():
            return SharedGateway(site, TokenFile(settings, Path(config.token_root)))
        case EcsRamRoleSettings():
            return SharedGateway(site, MachineRole(site, files))
        case OidcRamSettings():
            return SharedGateway(site, AssumedRole(site, settings))
        case AttestationSettings():
            return AttestedInstance(site, settings, files)
        case _:
            assert_never(settings)
