"""An eHSM-KMS as CDH uses it: it wraps and unwraps data keys; errors worded.

Source: docs/spec/confidential-data-hub.md 8.1 and 8.7.
"""

import asyncio
import secrets
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, Self, TypeVar

from cdh.files import read_given
from cdh.kms.calls import CALL_SECONDS, refused, repeated, worded
from cdh.kms.ehsm import protocol
from cdh.kms.ehsm.protocol import EhsmRequest
from cdh.kms.ehsm.settings import (
    EhsmCredentials,
    EhsmSettings,
    decode_credentials,
    parse_settings,
    verify_endpoint,
)
from cdh.kms.files import MAX_FILE_LENGTH, CredentialFiles, decode_file
from cdh.kms.site import KmsSite
from guest.deadline import Deadline
from guest.errors import DecodeError
from guest.http import HttpClient
from guest.secret import Secret

PROVIDER: Final = "ehsm"
NAME: Final = "eHSM-KMS"

NONCE_BYTES: Final = 16
"""Random bytes of a nonce."""

T = TypeVar("T")
Decoder = Callable[[int, bytes], T]


class EhsmClient:
    """A client of one service.

    Args:
        site: gives connections.
        endpoint: verified.
        read: gives the credentials; blocks.
    """

    def __init__(self, site: KmsSite, endpoint: str, read: Callable[[], EhsmCredentials]) -> None:
        self._site = site
        self._endpoint = endpoint
        self._read = read

    async def call(self, request: EhsmRequest, decode: Decoder[T], deadline: Deadline) -> T:
        """What an answer holds; every request may be repeated.

        Raises:
            GuestError: no credentials; refused, unreachable, out of time.
        """
        async with deadline.limit("the credentials"):
            credentials = await asyncio.to_thread(self._read)
        roots = self._site.config.kms.ehsm.extra_root_certificates
        async with self._site.http(deadline, roots=roots) as http:
            limit = deadline.within(CALL_SECONDS)
            return await repeated(
                lambda: self._attempt(http, credentials, request, decode, limit), limit
            )

    async def _attempt(
        self,
        http: HttpClient,
        credentials: EhsmCredentials,
        request: EhsmRequest,
        decode: Decoder[T],
        deadline: Deadline,
    ) -> T:
        milliseconds = int(datetime.now(UTC).timestamp() * 1000)
        answer = await http.request(
            "POST",
            request.url(self._endpoint),
            headers=(("Content-Type", protocol.MEDIA_TYPE),),
            body=request.body(credentials, secrets.token_hex(NONCE_BYTES), milliseconds),
            deadline=deadline,
            max_body=protocol.MAX_ANSWER_LENGTH,
        )
        return decode(answer.status, answer.body)


class EhsmKms:
    """A `Decrypter` for the settings of one secret or packet."""

    def __init__(self, client: EhsmClient) -> None:
        self._client = client

    @classmethod
    def open(cls, site: KmsSite, settings: Mapping[str, object]) -> Self:
        """Choose service and application; nothing is read or sent yet.

        Raises:
            InvalidInputError: the settings are not as specified.
        """
        files = site.credentials(PROVIDER, site.config.kms.ehsm.in_guest_key_path)
        try:
            parsed = parse_settings(settings)
        except DecodeError as error:
            raise refused(NAME, error) from error.__cause__
        return cls(EhsmClient(site, parsed.endpoint, lambda: read_credentials(files, parsed)))

    async def decrypt(
        self, ciphertext: bytes, key_id: str, annotations: Mapping[str, object], deadline: Deadline
    ) -> Secret:
        """The plaintext under a key of the service; see `cdh.kms.base.Decrypter`.

        Raises:
            GuestError: `eHSM-KMS error: ...`.
        """
        del annotations

        async def call() -> Secret:
            request = protocol.decrypt_request(ciphertext, key_id)
            return await self._client.call(request, protocol.decode_plaintext, deadline)

        return await worded(NAME, call)


class EhsmSealer:
    """An `Encrypter` with the credential file that an owner names.

    Args:
        site: gives connections.
        endpoint: verified.
        credentials: of the owner.
    """

    def __init__(self, site: KmsSite, endpoint: str, credentials: EhsmCredentials) -> None:
        self._client = EhsmClient(site, endpoint, lambda: credentials)
        self.settings: Mapping[str, object] = {
            "app_id": credentials.app_id,
            "endpoint": endpoint,
        }

    @classmethod
    def open(cls, site: KmsSite, flags: Mapping[str, object]) -> Self:
        """Read the file that the flags of `secret seal ... ehsm` name; blocks.

        Raises:
            GuestError: the file cannot be read or is not as specified; the endpoint is none.
        """
        path = Path(str(flags["credential_file_path"]))
        try:
            endpoint = verify_endpoint(str(flags["endpoint"]))
        except DecodeError as error:
            raise refused(NAME, error) from error.__cause__
        return cls(
            site,
            endpoint,
            decode_file(read_given(path, MAX_FILE_LENGTH), str(path), decode_credentials),
        )

    async def encrypt(
        self, plaintext: Secret, key_id: str, deadline: Deadline
    ) -> tuple[bytes, Mapping[str, object]]:
        """The ciphertext under a key of the service; the decrypter needs no annotations.

        Raises:
            GuestError: `eHSM-KMS error: ...`.
        """
        request = protocol.encrypt_request(plaintext, key_id)
        ciphertext = await worded(
            NAME, lambda: self._client.call(request, protocol.decode_ciphertext, deadline)
        )
        return ciphertext, {}


def read_credentials(files: CredentialFiles, settings: EhsmSettings) -> EhsmCredentials:
    """Read an application's credentials; blocks.

    Raises:
        NotFoundError: there are none.
        PlatformError: they are not as specified.
    """
    name = f"credential_{settings.app_id}.json"
    return decode_file(files.read(name), name, decode_credentials)
