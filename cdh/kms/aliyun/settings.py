"""What secrets and packets say of their Alibaba Cloud KMS: settings and annotations. Sans-I/O.

Both are public and chosen by whoever sealed the secret: every id that becomes part of a host or a
file name has a fixed alphabet.

Source: docs/spec/confidential-data-hub.md 8.1 to 8.5, 12.3 and 12.4.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, TypeAlias

from cdh.kms.members import id_member, text_member, verify_id, verify_text
from guest import wire
from guest.errors import DecodeError
from guest.secret import Secret

MAX_IV_LENGTH: Final = 64
"""Most bytes of an initialisation vector; the service's own have 12."""

MAX_PEM_LENGTH: Final = 64 * 1024
"""Most characters of a CA's certificate that stands in the settings."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientKeySettings:
    """A KMS instance, asked with a client key (`client_key`).

    Attributes:
        client_key_id: names the files of the key; what goes on the wire stands in them.
        kms_instance_id: names the instance's host and the file of its CA.
    """

    client_key_id: str
    kms_instance_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class StsTokenSettings:
    """The shared gateway, asked with a token from a file (`sts_token`).

    Attributes:
        token_path: as written; which files may be read is for the reader to judge.
        region_id: names the gateway's host.
    """

    token_path: str
    region_id: str


@dataclass(frozen=True, slots=True)
class EcsRamRoleSettings:
    """The shared gateway, asked with the role of this machine (`ecs_ram_role`)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OidcRamSettings:
    """The shared gateway, asked as a role that an identity token may assume (`oidc_ram`).

    Attributes:
        region_id: names the gateway's host.
        id_token: the identity token; None for the one of this guest (RRSA).
        oidc_provider_arn: who issued the token; None for what this guest was told.
        role_arn: the role; None for what this guest was told.
    """

    region_id: str
    id_token: Secret | None = None
    oidc_provider_arn: str | None = None
    role_arn: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class AttestationSettings:
    """A KMS instance that verifies this guest's evidence itself (`attestation`).

    Attributes:
        kms_instance_id: names the instance's host and the file of its CA.
        ecs_ram_role_name: the role of this machine that asks; None where a key is given.
        sts_token: `<AccessKeyId>:<AccessKeySecret>:<SecurityToken>` that asks; None for the role's.
        kms_ca_cert: PEM of the instance's CA; None for the file.
        tee: the name that the instance knows this guest's TEE by.
    """

    kms_instance_id: str
    ecs_ram_role_name: str | None = None
    sts_token: Secret | None = None
    kms_ca_cert: str | None = None
    tee: str = "tdx"


Settings: TypeAlias = (
    ClientKeySettings
    | StsTokenSettings
    | EcsRamRoleSettings
    | OidcRamSettings
    | AttestationSettings
)


@dataclass(frozen=True, slots=True, kw_only=True)
class SecretVersion:
    """Which version of a secret; both empty for the newest.

    Attributes:
        stage: a label.
        version_id: one version.
    """

    stage: str = ""
    version_id: str = ""


def parse_settings(settings: Mapping[str, object]) -> Settings:
    """Read `provider_settings`; unknown members are skipped.

    Raises:
        DecodeError: no such client type, a member missing, an id that is none.
    """
    if "client_type" not in settings:
        raise DecodeError("client type not exist.")
    match settings["client_type"]:
        case "client_key":
            return ClientKeySettings(
                client_key_id=id_member(settings, "client_key_id"),
                kms_instance_id=id_member(settings, "kms_instance_id"),
            )
        case "sts_token":
            return StsTokenSettings(
                token_path=text_member(settings, "token_path"),
                region_id=id_member(settings, "region_id"),
            )
        case "ecs_ram_role":
            return EcsRamRoleSettings()
        case "oidc_ram":
            return _parse_oidc(settings)
        case "attestation":
            return _parse_attestation(settings)
        case str():
            raise DecodeError("client type invalid.")
        case _:
            raise DecodeError("client type value is not str.")


def _parse_oidc(settings: Mapping[str, object]) -> OidcRamSettings:
    region_id = id_member(settings, "region_id")
    if "id_token" in settings:
        token = text_member(settings, "id_token")
        if not token.isascii():
            raise DecodeError("id_token is not ASCII")
        return OidcRamSettings(
            region_id=region_id,
            id_token=Secret(token.encode("ascii")),
            oidc_provider_arn=text_member(settings, "oidc_provider_arn"),
            role_arn=text_member(settings, "role_arn"),
        )
    names = ("oidc_provider_arn", "role_arn")
    provider, role = (text_member(settings, n) if n in settings else None for n in names)
    return OidcRamSettings(region_id=region_id, oidc_provider_arn=provider, role_arn=role)


def _parse_attestation(settings: Mapping[str, object]) -> AttestationSettings:
    names = ("ecs_ram_role_name", "sts_token")
    role, token = (verify_text(settings.get(name) or "", name).strip() for name in names)
    if bool(role) == bool(token):
        raise DecodeError("exactly one of ecs_ram_role_name and sts_token must be there")
    if not token.isascii():
        raise DecodeError("sts_token is not ASCII")
    return AttestationSettings(
        kms_instance_id=id_member(settings, "kms_instance_id"),
        ecs_ram_role_name=verify_id(role, "ecs_ram_role_name") if role else None,
        sts_token=Secret(token.encode("ascii")) if token else None,
        kms_ca_cert=_parse_pem(settings.get("kms_ca_cert")),
        tee=verify_id(verify_text(settings.get("tee", "tdx"), "tee"), "tee"),
    )


def _parse_pem(value: object) -> str | None:
    if value is None or value == "":
        return None
    if not isinstance(value, str) or len(value) > MAX_PEM_LENGTH or not value.isascii():
        raise DecodeError("kms_ca_cert is no PEM certificate")
    if "-----BEGIN CERTIFICATE-----" not in value:
        raise DecodeError("kms_ca_cert is no PEM certificate")
    return value


def parse_iv(annotations: Mapping[str, object]) -> bytes:
    """The initialisation vector that a wrapped key was encrypted with.

    Raises:
        DecodeError: there is none, or it is not strict base64.
    """
    iv = wire.decode_base64(text_member(annotations, "iv"), "iv")
    if not 0 < len(iv) <= MAX_IV_LENGTH:
        raise DecodeError(f"iv has {len(iv)} bytes")
    return iv


def parse_version(annotations: Mapping[str, object]) -> SecretVersion:
    """Which version a vault secret means; absent members are empty.

    Raises:
        DecodeError: a member is no string.
    """
    stage, version_id = (
        verify_text(annotations.get(name, ""), name) for name in ("version_stage", "version_id")
    )
    return SecretVersion(stage=stage, version_id=version_id)
