"""The dedicated gateway of one KMS instance: sign, send, try again.

Source: docs/spec/confidential-data-hub.md 8.2.
"""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TypeVar

from cdh.kms.aliyun import instance
from cdh.kms.aliyun.client_key import ClientKey, open_client_key
from cdh.kms.aliyun.documents import decode_pem
from cdh.kms.aliyun.settings import ClientKeySettings, parse_iv, parse_version
from cdh.kms.calls import CALL_SECONDS, repeated
from cdh.kms.files import CredentialFiles
from cdh.kms.site import KmsSite
from guest.deadline import Deadline
from guest.errors import ConfigError, DecodeError, PlatformError
from guest.http import HttpClient
from guest.secret import Secret

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class InstanceCredentials:
    """What a client of one instance has.

    Attributes:
        key: signs.
        authority: PEM, trusted besides the system's roots.
    """

    key: ClientKey
    authority: str


def read_credentials(files: CredentialFiles, settings: ClientKeySettings) -> InstanceCredentials:
    """Read the three files of a client key; blocks.

    Raises:
        NotFoundError: one is missing.
        PlatformError: one is not as specified.
    """
    authority = f"PrivateKmsCA_{settings.kms_instance_id}.pem"
    with (
        files.read(f"clientKey_{settings.client_key_id}.json") as document,
        files.read(f"password_{settings.client_key_id}.json") as password,
    ):
        key = open_client_key(document, password)
    return InstanceCredentials(key=key, authority=parse_authority(files.read(authority)))


def parse_authority(content: Secret) -> str:
    """The PEM of an instance's CA.

    Raises:
        PlatformError: it is no PEM.
    """
    try:
        return decode_pem(content.reveal())
    except DecodeError as error:
        raise PlatformError(f"CA of the KMS instance: {error}") from error


class InstanceGateway:
    """A client of one instance; credentials are read anew for each operation.

    Args:
        site: gives connections.
        kms_instance_id: verified.
        read: gives the credentials; blocks.
    """

    def __init__(
        self, site: KmsSite, kms_instance_id: str, read: Callable[[], InstanceCredentials]
    ) -> None:
        self._site = site
        self._host = instance.host(kms_instance_id)
        self._read = read

    async def decrypt(
        self, ciphertext: bytes, key_id: str, annotations: Mapping[str, object], deadline: Deadline
    ) -> Secret:
        """The plaintext of what `encrypt` gave.

        Raises:
            DecodeError: the annotations have no iv.
            GuestError: as `cdh.kms.base.Decrypter`.
        """
        request = instance.decrypt_request(ciphertext, key_id, parse_iv(annotations))
        return await self._call(request, instance.decode_plaintext, deadline)

    async def get_secret(
        self, name: str, annotations: Mapping[str, object], deadline: Deadline
    ) -> Secret:
        """A secret that the instance keeps.

        Raises:
            DecodeError: the annotations name no version as they should.
            GuestError: as `cdh.kms.base.SecretGetter`.
        """
        request = instance.get_secret_request(name, parse_version(annotations))
        return await self._call(request, instance.decode_secret, deadline)

    async def encrypt(
        self, plaintext: Secret, key_id: str, deadline: Deadline
    ) -> tuple[bytes, bytes]:
        """Ciphertext, and the IV that the gateway chose.

        Raises:
            GuestError: as `cdh.kms.base.Encrypter`.
        """
        request = instance.encrypt_request(plaintext, key_id)
        return await self._call(request, instance.decode_ciphertext, deadline)

    async def _call(
        self,
        request: instance.InstanceRequest,
        decode: Callable[[int, bytes], T],
        deadline: Deadline,
    ) -> T:
        async with deadline.limit("the client key"):
            credentials = await asyncio.to_thread(self._read)
        try:
            client = self._site.http(deadline, roots=(credentials.authority,))
            async with client as http:
                limit = deadline.within(CALL_SECONDS)
                return await repeated(
                    lambda: self._attempt(http, credentials.key, request, decode, limit), limit
                )
        except ConfigError as error:
            raise PlatformError(f"connection to {self._host}: {error}") from error

    async def _attempt(
        self,
        http: HttpClient,
        key: ClientKey,
        request: instance.InstanceRequest,
        decode: Callable[[int, bytes], T],
        deadline: Deadline,
    ) -> T:
        now = datetime.now(UTC)
        signature = await asyncio.to_thread(key.sign, request.string_to_sign(key.key_id, now))
        answer = await http.request(
            "POST",
            f"https://{self._host}/",
            headers=request.headers(key.key_id, now, signature),
            body=request.body,
            deadline=deadline,
            max_body=instance.MAX_ANSWER_LENGTH,
        )
        return decode(answer.status, answer.body)
