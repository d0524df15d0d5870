"""A KMS instance that gives secrets to guests whose evidence it accepts.

Source: docs/spec/confidential-data-hub.md 12.4.
"""

import asyncio
import secrets
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Final, Protocol, TypeVar

from cdh.kms.aliyun import instance, openapi, recipient
from cdh.kms.aliyun.documents import decode_given_key
from cdh.kms.aliyun.gateway import parse_authority
from cdh.kms.aliyun.openapi import AccessKey
from cdh.kms.aliyun.sessions import AccessKeys, fetch_role_key
from cdh.kms.aliyun.settings import AttestationSettings, SecretVersion, parse_version
from cdh.kms.calls import CALL_SECONDS, repeated
from cdh.kms.files import CredentialFiles
from cdh.kms.site import KmsSite
from guest.deadline import Deadline
from guest.errors import ConfigError, PlatformError, UnauthenticatedError, UnsupportedError
from guest.http import HttpClient
from guest.secret import Secret

NONCE_BYTES: Final = 16
"""Random bytes of a signature's nonce."""

T = TypeVar("T")


class KeySource(Protocol):
    """Where the access key comes from."""

    async def get(self, deadline: Deadline) -> AccessKey:
        """A key that is valid now.

        Raises:
            GuestError: there is none.
        """
        ...

    def is_renewed(self, key: AccessKey) -> bool:
        """After a refusal of `key`: whether `get` would now give another one."""
        ...


class GivenKey:
    """The key that stands in the secret's settings."""

    def __init__(self, key: AccessKey) -> None:
        self._key = key

    async def get(self, deadline: Deadline) -> AccessKey:
        """The key."""
        del deadline
        return self._key

    def is_renewed(self, key: AccessKey) -> bool:
        """Never."""
        del key
        return False


class RoleKey:
    """The key of a role of this machine, kept until shortly before it ends.

    Args:
        site: names the metadata server.
        role_name: verified.
    """

    def __init__(self, site: KmsSite, role_name: str) -> None:
        self._site = site
        self._role_name = role_name
        self._keys = site.keep(AccessKeys, AccessKeys)

    async def get(self, deadline: Deadline) -> AccessKey:
        """A key of the role.

        Raises:
            GuestError: no such role, or the metadata server fails.
        """
        return await self._keys.get(
            f"role {self._role_name}",
            lambda limit: fetch_role_key(self._site, self._role_name, limit),
            deadline,
        )

    def is_renewed(self, key: AccessKey) -> bool:
        """Whether it was a kept one."""
        return self._keys.forget(f"role {self._role_name}", key)


class AttestedInstance:
    """A client of one instance; only gives secrets, of at most `MAX_SECRET_LENGTH` bytes.

    Args:
        site: gives connections, and leads to the attestation agent.
        settings: of the secret.
        files: have the instance's CA where the settings have none.

    Raises:
        DecodeError: the settings' access key is none.
    """

    def __init__(
        self, site: KmsSite, settings: AttestationSettings, files: CredentialFiles
    ) -> None:
        self._site = site
        self._settings = settings
        self._files = files
        self._host = instance.host(settings.kms_instance_id)
        self._keys: KeySource = (
            RoleKey(site, settings.ecs_ram_role_name or "")
            if settings.sts_token is None
            else GivenKey(decode_given_key(settings.sts_token.reveal()))
        )

    async def get_secret(
        self, name: str, annotations: Mapping[str, object], deadline: Deadline
    ) -> Secret:
        """A secret that the instance keeps.

        Raises:
            DecodeError: the annotations name no version as they should.
            UnsupportedError: no attestation agent is known here.
            GuestError: as `cdh.kms.base.SecretGetter`.
        """
        version = parse_version(annotations)
        key = await self._keys.get(deadline)
        try:
            return await self._get_secret(key, name, version, deadline)
        except UnauthenticatedError:
            if not self._keys.is_renewed(key):
                raise
        return await self._get_secret(await self._keys.get(deadline), name, version, deadline)

    async def _get_secret(
        self, key: AccessKey, name: str, version: SecretVersion, deadline: Deadline
    ) -> Secret:
        agent = self._site.agent
        if agent is None:
            raise UnsupportedError("client type attestation needs an attestation agent")
        async with deadline.limit("the recipient's key"):
            authority = await asyncio.to_thread(self._authority)
            private = await asyncio.to_thread(recipient.generate_key)
        try:
            async with self._site.http(deadline, roots=(authority,)) as http:

                def ask() -> bytes:
                    return recipient.challenge_request(key, _nonce(), datetime.now(UTC))

                challenge = await self._call(http, ask, recipient.decode_challenge, deadline)
                bound = recipient.RuntimeData.of(challenge, private.public_key())
                evidence = await agent.get_evidence(bound.report_data(), deadline)
                proof = bound.recipient(self._settings.tee, evidence)

                def fetch() -> bytes:
                    return recipient.get_secret_request(
                        name, version, proof, key=key, nonce=_nonce(), now=datetime.now(UTC)
                    )

                sealed = await self._call(http, fetch, recipient.decode_secret, deadline)
        except ConfigError as error:
            raise PlatformError(f"connection to {self._host}: {error}") from error
        return await asyncio.to_thread(recipient.decrypt_secret, sealed, private)

    async def _call(
        self,
        http: HttpClient,
        make_form: Callable[[], bytes],
        decode: Callable[[int, bytes], T],
        deadline: Deadline,
    ) -> T:
        limit = deadline.within(CALL_SECONDS)

        async def attempt() -> T:
            answer = await http.request(
                "POST",
                f"https://{self._host}/",
                headers=(("Content-Type", recipient.MEDIA_TYPE),),
                body=make_form(),
                deadline=limit,
                max_body=openapi.MAX_ANSWER_LENGTH,
            )
            return decode(answer.status, answer.body)

        return await repeated(attempt, limit)

    def _authority(self) -> str:
        if self._settings.kms_ca_cert is not None:
            return self._settings.kms_ca_cert
        name = f"PrivateKmsCA_{self._settings.kms_instance_id}.pem"
        return parse_authority(self._files.read(name))


def _nonce() -> str:
    return secrets.token_hex(NONCE_BYTES)
