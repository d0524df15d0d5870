"""The shared gateway of a region, with access keys from three sources; it only gives secrets.

Source: docs/spec/confidential-data-hub.md 8.3 to 8.5 and 12.3.
"""

import asyncio
import hashlib
import secrets
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, Protocol, TypeVar

from cdh.kms.aliyun import documents, openapi
from cdh.kms.aliyun.openapi import AccessKey
from cdh.kms.aliyun.sessions import AccessKeys, assume_role, fetch_role_key
from cdh.kms.aliyun.settings import OidcRamSettings, SecretVersion, StsTokenSettings, parse_version
from cdh.kms.calls import CALL_SECONDS, repeated
from cdh.kms.files import CredentialFiles, find_file, read_below
from cdh.kms.site import KmsSite
from guest.deadline import Deadline
from guest.errors import (
    DecodeError,
    InvalidInputError,
    NotFoundError,
    PlatformError,
    UnauthenticatedError,
)
from guest.http import HttpClient
from guest.secret import Secret

NONCE_BYTES: Final = 16
"""Random bytes of a signature's nonce."""

ROLE_FILE: Final = "ecsRamRole.json"

T = TypeVar("T")


class KeySource(Protocol):
    """Where access keys come from."""

    async def get(self, deadline: Deadline) -> tuple[str, AccessKey]:
        """The region of the gateway, and a key for it.

        Raises:
            GuestError: there is none.
        """
        ...

    def is_renewed(self, key: AccessKey) -> bool:
        """After a refusal of `key`: whether `get` would now give another one."""
        ...


class TokenFile:
    """`sts_token`: a file of the guest that the secret names.

    Args:
        settings: the file, and the region.
        root: the file must lie below it.
    """

    def __init__(self, settings: StsTokenSettings, root: Path) -> None:
        self._settings = settings
        self._root = root

    async def get(self, deadline: Deadline) -> tuple[str, AccessKey]:
        """The file's key, read anew.

        Raises:
            InvalidInputError: the file may not be named.
            NotFoundError: there is no such file.
            PlatformError: it is not as specified.
        """
        async with deadline.limit("the STS token"):
            content = await asyncio.to_thread(read_below, self._root, self._settings.token_path)
        key = _decode(documents.decode_sts_token, content, "STS token file")
        return self._settings.region_id, key

    def is_renewed(self, key: AccessKey) -> bool:
        """Never: whoever writes the file renews it."""
        return False


class MachineRole:
    """`ecs_ram_role`: the role of this machine, from the metadata server.

    Args:
        site: names the metadata server.
        files: have the role's name.
    """

    def __init__(self, site: KmsSite, files: CredentialFiles) -> None:
        self._site = site
        self._files = files
        self._keys = site.keep(AccessKeys, AccessKeys)
        self._name = ""

    async def get(self, deadline: Deadline) -> tuple[str, AccessKey]:
        """A key of the role, kept until shortly before it ends.

        Raises:
            NotFoundError: the file, or the role, is missing.
            GuestError: the file is not as specified, or the metadata server fails.
        """
        async with deadline.limit("the role's file"):
            content = await asyncio.to_thread(self._files.read, ROLE_FILE)
        role = _decode(documents.decode_role, content, ROLE_FILE)
        self._name = f"role {role.role_name}"
        key = await self._keys.get(
            self._name, lambda limit: fetch_role_key(self._site, role.role_name, limit), deadline
        )
        return role.region_id, key

    def is_renewed(self, key: AccessKey) -> bool:
        """Whether it was a kept one."""
        return self._keys.forget(self._name, key)


class AssumedRole:
    """`oidc_ram`: a role that an identity token may assume, the secret's or this guest's own.

    Args:
        site: says which role and token this guest has.
        settings: of the secret.
    """

    def __init__(self, site: KmsSite, settings: OidcRamSettings) -> None:
        self._site = site
        self._settings = settings
        self._keys = site.keep(AccessKeys, AccessKeys)
        self._name = ""

    async def get(self, deadline: Deadline) -> tuple[str, AccessKey]:
        """A key of the role, kept until shortly before it ends.

        Raises:
            InvalidInputError: neither secret nor guest name role, issuer and token.
            GuestError: the token file cannot be read, or the security token service refuses.
        """
        own, settings = self._site.config.kms.aliyun, self._settings
        role_arn = settings.role_arn or own.role_arn
        provider_arn = settings.oidc_provider_arn or own.oidc_provider_arn
        if not role_arn or not provider_arn:
            raise InvalidInputError("oidc_ram needs role_arn and oidc_provider_arn")
        id_token = settings.id_token or await self._own_token(deadline)
        digest = hashlib.sha256(id_token.reveal()).hexdigest()
        self._name = f"oidc {settings.region_id} {role_arn} {provider_arn} {digest}"

        async def issue(limit: Deadline) -> AccessKey:
            request = openapi.assume_role_request(
                settings.region_id,
                id_token=id_token,
                provider_arn=provider_arn,
                role_arn=role_arn,
                session_name=own.role_session_name or openapi.DEFAULT_SESSION_NAME,
                now=datetime.now(UTC),
            )
            return await assume_role(self._site, request, limit)

        return settings.region_id, await self._keys.get(self._name, issue, deadline)

    def is_renewed(self, key: AccessKey) -> bool:
        """Whether it was a kept one."""
        return self._keys.forget(self._name, key)

    async def _own_token(self, deadline: Deadline) -> Secret:
        path = self._site.config.kms.aliyun.oidc_token_file
        if not path:
            raise InvalidInputError("oidc_ram needs id_token, and this guest has no token file")
        async with deadline.limit("the identity token"):
            content = await asyncio.to_thread(find_file, Path(path))
        if content is None:
            raise NotFoundError(f"no identity token at {path[:200]}")
        return _decode(documents.decode_id_token, content, "identity token file")


class SharedGateway:
    """A client of the shared gateway.

    Args:
        site: gives connections.
        keys: gives access keys.
    """

    def __init__(self, site: KmsSite, keys: KeySource) -> None:
        self._site = site
        self._keys = keys

    async def get_secret(
        self, name: str, annotations: Mapping[str, object], deadline: Deadline
    ) -> Secret:
        """A secret that the service keeps.

        Raises:
            DecodeError: the annotations name no version as they should.
            GuestError: as `cdh.kms.base.SecretGetter`.
        """
        version = parse_version(annotations)
        region_id, key = await self._keys.get(deadline)
        try:
            return await self._get_secret(region_id, key, name, version, deadline)
        except UnauthenticatedError:
            if not self._keys.is_renewed(key):
                raise
        region_id, key = await self._keys.get(deadline)
        return await self._get_secret(region_id, key, name, version, deadline)

    async def _get_secret(
        self, region_id: str, key: AccessKey, name: str, version: SecretVersion, deadline: Deadline
    ) -> Secret:
        roots = self._site.config.kms.aliyun.extra_root_certificates
        async with self._site.http(deadline, roots=roots) as http:
            limit = deadline.within(CALL_SECONDS)

            async def attempt() -> Secret:
                request = openapi.get_secret_request(
                    region_id,
                    name,
                    version,
                    key=key,
                    nonce=secrets.token_hex(NONCE_BYTES),
                    now=datetime.now(UTC),
                )
                return await _send(http, request, limit)

            return await repeated(attempt, limit)


async def _send(http: HttpClient, request: openapi.ApiRequest, deadline: Deadline) -> Secret:
    answer = await http.request(
        "POST",
        request.url.reveal().decode("ascii"),
        headers=request.headers,
        deadline=deadline,
        max_body=openapi.MAX_ANSWER_LENGTH,
    )
    return openapi.decode_secret(answer.status, answer.body)


def _decode(decoder: Callable[[bytes], T], content: Secret, what: str) -> T:
    try:
        with content:
            return decoder(content.reveal())
    except DecodeError as error:
        raise PlatformError(f"{what}: {error}") from error
