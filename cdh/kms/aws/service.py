"""AWS as CDH uses it: keys of KMS, secrets of Secrets Manager, errors worded.

The credentials are those of one file, read anew for each call: nothing is looked up in the
environment, in a home directory or at a metadata server.

Source: docs/spec/confidential-data-hub.md 8.1 and 8.6; docs/adr/0005.
"""

import asyncio
import uuid
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, Self, TypeVar

from cdh.files import read_given
from cdh.kms.aws import api
from cdh.kms.aws.api import AwsRequest, ExistsError
from cdh.kms.aws.settings import (
    AwsCredentials,
    decode_credentials,
    parse_context,
    parse_region,
    parse_version,
    verify_region,
)
from cdh.kms.calls import CALL_SECONDS, refused, repeated, worded
from cdh.kms.files import MAX_FILE_LENGTH, CredentialFiles, decode_file
from cdh.kms.site import KmsSite
from guest.deadline import Deadline
from guest.errors import DecodeError, InvalidInputError
from guest.http import HttpClient
from guest.secret import Secret

PROVIDER: Final = "aws"
NAME: Final = "AWS KMS"

CREDENTIAL_FILE: Final = "credential.json"

CONNECT_SECONDS: Final = 3.1
"""Most seconds for a TCP connection."""

T = TypeVar("T")
Decoder = Callable[[int, bytes, str], T]


class AwsClient:
    """A client of one region.

    Args:
        site: gives connections.
        region: verified.
        read: gives the credentials; blocks.
    """

    def __init__(self, site: KmsSite, region: str, read: Callable[[], AwsCredentials]) -> None:
        self._site = site
        self._region = region
        self._read = read

    async def call(self, request: AwsRequest, decode: Decoder[T], deadline: Deadline) -> T:
        """What an answer holds; every request may be repeated.

        Raises:
            GuestError: no credentials; refused, unreachable, out of time.
        """
        async with deadline.limit("the credentials"):
            credentials = await asyncio.to_thread(self._read)
        roots = self._site.config.kms.aws.extra_root_certificates
        client = self._site.http(deadline, roots=roots, connect_limit=CONNECT_SECONDS)
        async with client as http:
            limit = deadline.within(CALL_SECONDS)
            return await repeated(
                lambda: self._attempt(http, credentials, request, decode, limit), limit
            )

    async def _attempt(
        self,
        http: HttpClient,
        credentials: AwsCredentials,
        request: AwsRequest,
        decode: Decoder[T],
        deadline: Deadline,
    ) -> T:
        answer = await http.request(
            "POST",
            f"https://{request.host(self._region)}/",
            headers=request.headers(self._region, credentials, datetime.now(UTC)),
            body=request.body,
            deadline=deadline,
            max_body=api.MAX_ANSWER_LENGTH,
        )
        return decode(answer.status, answer.body, answer.headers.get("x-amzn-requestid", ""))


class AwsKms:
    """A `Decrypter` and a `SecretGetter` for the settings of one secret or packet."""

    def __init__(self, client: AwsClient) -> None:
        self._client = client

    @classmethod
    def open(cls, site: KmsSite, settings: Mapping[str, object]) -> Self:
        """Choose the region; nothing is read or sent yet.

        Raises:
            InvalidInputError: the settings are not as specified.
        """
        files = site.credentials(PROVIDER, site.config.kms.aws.in_guest_key_path)
        try:
            region = parse_region(settings)
        except DecodeError as error:
            raise refused(NAME, error) from error.__cause__
        return cls(AwsClient(site, region, lambda: read_credentials(files)))

    async def decrypt(
        self, ciphertext: bytes, key_id: str, annotations: Mapping[str, object], deadline: Deadline
    ) -> Secret:
        """The plaintext under a key of KMS; see `cdh.kms.base.Decrypter`.

        Raises:
            GuestError: `AWS KMS error: ...`.
        """

        async def call() -> Secret:
            request = api.decrypt_request(ciphertext, key_id, parse_context(annotations))
            return await self._client.call(request, api.decode_plaintext, deadline)

        return await worded(NAME, call)

    async def get_secret(
        self, name: str, annotations: Mapping[str, object], deadline: Deadline
    ) -> Secret:
        """A secret of Secrets Manager; see `cdh.kms.base.SecretGetter`.

        Raises:
            GuestError: `AWS KMS error: ...`.
        """

        async def call() -> Secret:
            request = api.get_secret_request(name, parse_version(annotations))
            return await self._client.call(request, api.decode_secret, deadline)

        return await worded(NAME, call)


class AwsSealer:
    """An `Encrypter` with the credential file that an owner names.

    Args:
        site: gives connections.
        region: verified.
        credentials: of the owner.
    """

    def __init__(self, site: KmsSite, region: str, credentials: AwsCredentials) -> None:
        self._client = AwsClient(site, region, lambda: credentials)
        self.settings: Mapping[str, object] = {"region": region}

    @classmethod
    def open(cls, site: KmsSite, flags: Mapping[str, object]) -> Self:
        """Read the file that the flags of `secret seal ... aws` name; blocks.

        Raises:
            GuestError: the file cannot be read or is not as specified; the region is none.
        """
        try:
            region = verify_region(str(flags["region"]))
        except DecodeError as error:
            raise refused(NAME, error) from error.__cause__
        return cls(site, region, _given_credentials(Path(str(flags["credential_file_path"]))))

    async def encrypt(
        self, plaintext: Secret, key_id: str, deadline: Deadline
    ) -> tuple[bytes, Mapping[str, object]]:
        """The ciphertext under a key of KMS; the decrypter needs no annotations.

        Raises:
            GuestError: `AWS KMS error: ...`.
        """
        request = api.encrypt_request(plaintext, key_id)
        ciphertext = await worded(
            NAME, lambda: self._client.call(request, api.decode_ciphertext, deadline)
        )
        return ciphertext, {}


class AwsKeeper:
    """A `SecretKeeper` with the credential file that an owner names.

    Args:
        site: gives connections.
        region: verified.
        credentials: of the owner.
    """

    def __init__(self, site: KmsSite, region: str, credentials: AwsCredentials) -> None:
        self._client = AwsClient(site, region, lambda: credentials)

    @classmethod
    def open(cls, site: KmsSite, settings: Mapping[str, object], credential_file: Path) -> Self:
        """Choose the region as guests do; read the file; blocks.

        Raises:
            GuestError: settings or file are not as specified.
        """
        try:
            region = parse_region(settings)
        except DecodeError as error:
            raise refused(NAME, error) from error.__cause__
        return cls(site, region, _given_credentials(credential_file))

    async def put_secret(
        self, name: str, secret: Secret, deadline: Deadline
    ) -> Mapping[str, object]:
        """Keep a secret in Secrets Manager, under a new name or as a new version.

        Raises:
            GuestError: `AWS KMS error: ...`.
        """
        if not 1 <= len(secret) <= api.MAX_SECRET_LENGTH:
            limit = api.MAX_SECRET_LENGTH
            raise InvalidInputError(f"{NAME} error: a secret has 1 to {limit} bytes")

        async def call() -> str:
            create = api.create_secret_request(name, secret, str(uuid.uuid4()))
            try:
                return await self._client.call(create, api.decode_stored, deadline)
            except ExistsError:
                put = api.put_secret_request(name, secret, str(uuid.uuid4()))
                return await self._client.call(put, api.decode_stored, deadline)

        await worded(NAME, call)
        return {"version_id": "", "version_stage": ""}


def read_credentials(files: CredentialFiles) -> AwsCredentials:
    """Read the one file of credentials; blocks.

    Raises:
        NotFoundError: it is missing.
        PlatformError: it is not as specified.
    """
    return decode_file(files.read(CREDENTIAL_FILE), CREDENTIAL_FILE, decode_credentials)


def _given_credentials(path: Path) -> AwsCredentials:
    """Those of an owner's file."""
    return decode_file(read_given(path, MAX_FILE_LENGTH), str(path), decode_credentials)
