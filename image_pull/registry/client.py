"""Reads one repository: manifests, small blobs, layer streams that survive a cut.

Source: docs/spec/image-pull.md, sections 6 and 7; OCI distribution-spec "Pull".
"""

import logging
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final

import msgspec

from guest.crypto.digest import Digest, HashAlgorithm
from guest.deadline import Deadline
from guest.errors import (
    DeadlineError,
    DecodeError,
    DeniedError,
    GuestError,
    IntegrityError,
    NotFoundError,
    PeerError,
    UnavailableError,
)
from guest.http import CertificateError, HttpStream
from guest.prepared import prepared
from image_pull.manifest import MAX_DOCUMENT, Descriptor
from image_pull.reference import ImageReference
from image_pull.registry.auth import Credentials
from image_pull.registry.tokens import Authorizer, not_authorized
from image_pull.registry.transport import RETRIED, RETRIES, Transport, closed_after, pause

log = logging.getLogger(__name__)

IDLE: Final = 60.0
"""Seconds without a byte after which a download has failed."""

STALL: Final = 20.0
"""Seconds without a byte after which another connection is tried."""

MAX_RESUMES: Final = 16
"""Most times one blob is asked for again, and once more for each `RESUME_BYTES` that came."""

RESUME_BYTES: Final = 64 * 1024
"""Bytes that another request is worth."""

MAX_ERROR: Final = 8 * 1024
"""Most bytes of the body of an error that are read."""

MAX_SHOWN: Final = 200
"""Most characters of a registry's own words in an error."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FetchedManifest:
    """A manifest or index as it came.

    Attributes:
        body: exact bytes.
        digest: SHA-256, computed here.
        content_type: the answer's header, may be empty.
    """

    body: bytes
    digest: Digest
    content_type: str


class RegistryClient:
    """One repository on one registry."""

    def __init__(
        self,
        transport: Transport,
        reference: ImageReference,
        scheme: str,
        credentials: Credentials | None,
    ) -> None:
        """Read the repository of `reference` over `scheme`."""
        base = f"{scheme}://{reference.network_host}"
        self._root = f"{base}/v2/{reference.repository}"
        self._transport = transport
        self._authorizer = Authorizer(transport, base, reference.repository, credentials)

    async def manifest(self, selector: str, deadline: Deadline) -> FetchedManifest:
        """Fetch by tag or digest and check every digest that was asked for or told.

        Raises:
            IntegrityError: the body has another digest.
            GuestError: with the peer's text for the status.
        """
        url = f"{self._root}/manifests/{selector}"
        body, headers = await self._get(url, deadline)
        told = headers.get("docker-content-digest")
        for text in (selector.lower() if ":" in selector else None, told):
            if text:
                _check(body, _parse_digest(text))
        return FetchedManifest(
            body=body,
            digest=HashAlgorithm.SHA256.of(body),
            content_type=headers.get("content-type", ""),
        )

    async def small_blob(self, descriptor: Descriptor, deadline: Deadline) -> bytes:
        """Fetch a blob whole, up to 4 MiB, and check size and digest.

        Raises:
            IntegrityError: other bytes than the descriptor says.
            GuestError: with the peer's text for the status.
        """
        body, headers = await self._get(f"{self._root}/blobs/{descriptor.digest}", deadline)
        _check(body, descriptor.digest)
        if len(body) != descriptor.size:
            raise IntegrityError(
                f"blob {descriptor.digest} has {len(body)} bytes, not {descriptor.size}"
            )
        told = headers.get("docker-content-digest")
        if told:
            _check(body, _parse_digest(told))
        return body

    async def referrers(self, digest: Digest, deadline: Deadline) -> bytes | None:
        """The index of what refers to a manifest; None if there is nothing.

        A registry without the interface keeps the index under a tag made of the digest.

        Raises:
            GuestError: with the peer's text for the status.
        """
        try:
            body, _ = await self._get(f"{self._root}/referrers/{digest}", deadline)
        except NotFoundError:
            tag = f"{digest.algorithm.value}-{digest.hex}"
            try:
                return (await self.manifest(tag, deadline)).body
            except NotFoundError:
                return None
        return body

    async def _get(self, url: str, deadline: Deadline) -> tuple[bytes, Mapping[str, str]]:
        refusals = 0
        while True:
            sent = await self._header(url, deadline)
            answer = await self._transport.get(
                url, authorization=sent, deadline=deadline, max_body=MAX_DOCUMENT
            )
            if answer.status == 200:
                return answer.body, answer.headers
            refusals += 1
            if answer.status != 401 or refusals > 1:
                raise status_error(url, answer.status, answer.body)
            if not self._authorizer.refused(answer.headers, sent):
                raise not_authorized(url)

    async def _header(self, url: str, deadline: Deadline) -> str | None:
        try:
            return await self._authorizer.header(deadline)
        except DecodeError as error:
            raise PeerError(f"Not authorized: url {url}") from error
        except GuestError as error:
            raise not_authorized(url, error) from error

    async def blob(
        self, descriptor: Descriptor, deadline: Deadline, *, start: int = 0
    ) -> AsyncIterator[bytes]:
        """Stream exactly the descriptor's count of bytes; resumes after a cut.

        The digest is for the receiver to check. Close it when leaving early.

        Args:
            descriptor: of the blob.
            deadline: for all of it.
            start: bytes that the receiver has already.

        Raises:
            IntegrityError: the registry has more or fewer bytes.
            DeadlineError: 60 seconds without a byte, or the deadline.
            GuestError: the registry cannot or will not give it.
        """
        url = f"{self._root}/blobs/{descriptor.digest}"
        progress = _Progress(size=descriptor.size, offset=start)
        while progress.offset < descriptor.size:
            try:
                async with closed_after(self._attempt(url, progress, deadline)) as chunks:
                    async for chunk in chunks:
                        yield chunk
                progress.failed = UnavailableError(
                    f"blob ended after {progress.offset} of {descriptor.size} bytes"
                )
            except (UnavailableError, DeadlineError) as error:
                progress.failed = error
            if progress.offset < descriptor.size:
                await self._again(url, progress, deadline)

    async def _again(self, url: str, progress: "_Progress", deadline: Deadline) -> None:
        assert progress.failed is not None
        progress.failures += 1
        progress.resumes += 1
        is_final = isinstance(progress.failed, CertificateError) or deadline.is_over()
        most = MAX_RESUMES + progress.offset // RESUME_BYTES
        is_enough = progress.failures > RETRIES or progress.resumes > most
        if is_final or is_enough or progress.silence.is_over():
            raise progress.failed
        log.debug("blob is asked for again", extra={"url": url, "offset": progress.offset})
        await pause(progress.failures - 1, progress.retry_after, deadline)

    async def _attempt(
        self, url: str, progress: "_Progress", deadline: Deadline
    ) -> AsyncIterator[bytes]:
        extra = {"Range": f"bytes={progress.offset}-"} if progress.offset else {}
        for refusal in range(2):
            sent = await self._header(url, deadline)
            async with self._transport.open(
                url,
                authorization=sent,
                extra=extra,
                deadline=deadline,
                idle=max(0.1, min(STALL, progress.silence.remaining())),
            ) as stream:
                if stream.status == 401 and refusal == 0:
                    if not self._authorizer.refused(stream.headers, sent):
                        raise not_authorized(url)
                    continue
                skip = await _judge(url, stream, progress)
                async with closed_after(stream.chunks()) as chunks:
                    async for chunk in chunks:
                        fresh = chunk[skip:]
                        skip = max(0, skip - len(chunk))
                        if fresh:
                            progress.received(len(fresh))
                            yield fresh
                            progress.silence = Deadline.after(IDLE)
                return


class _Progress:
    """How far a blob has come."""

    def __init__(self, size: int, offset: int) -> None:
        self.size = size
        self.offset = offset
        self.failures = 0
        self.resumes = 0
        self.retry_after: str | None = None
        self.failed: GuestError | None = None
        self.silence = Deadline.after(IDLE)

    def received(self, count: int) -> None:
        self.offset += count
        self.failures = 0
        if self.offset > self.size:
            raise IntegrityError(f"blob is longer than the {self.size} bytes of its descriptor")


async def _judge(url: str, stream: HttpStream, progress: _Progress) -> int:
    """How many bytes of the answer are known already.

    Raises:
        GuestError: the answer is none, or does not fit.
    """
    progress.retry_after = stream.headers.get("retry-after")
    if stream.status == 206 and progress.offset:
        start = stream.headers.get("content-range", "")
        if not start.startswith(f"bytes {progress.offset}-"):
            raise PeerError("registry answers with another range of the blob")
        return 0
    if stream.status != 200:
        body = bytearray()
        async with closed_after(stream.chunks()) as chunks:
            async for chunk in chunks:
                body += chunk[: MAX_ERROR - len(body)]
                if len(body) >= MAX_ERROR:
                    break
        if stream.status in RETRIED:
            raise UnavailableError(str(status_error(url, stream.status, bytes(body))))
        raise status_error(url, stream.status, bytes(body))
    length = stream.headers.get("content-length", "")
    if length.isascii() and length.isdigit() and int(length[:20]) != progress.size:
        raise IntegrityError(f"blob has {length[:20]} bytes, its descriptor says {progress.size}")
    return progress.offset


def _parse_digest(text: str) -> Digest:
    try:
        return Digest.parse(text)
    except DecodeError as error:
        raise PeerError(f"registry names a digest that is none: {text[:140]!r}") from error


def _check(body: bytes, expected: Digest) -> None:
    actual = expected.algorithm.of(body)
    if actual != expected:
        raise IntegrityError(f"Digest error: Invalid digest. Expected {expected}, got {actual}")


class _OciError(msgspec.Struct, frozen=True):
    code: str = ""
    message: str | None = None


class _OciErrors(msgspec.Struct, frozen=True):
    errors: tuple[_OciError, ...]


def status_error(url: str, status: int, body: bytes) -> GuestError:
    """The error for an answer that is not the thing asked for."""
    if status == 401:
        return not_authorized(url)
    if 200 <= status < 300:
        phrase = HTTPStatus(status).phrase if status in HTTPStatus.__members__.values() else ""
        return PeerError(
            "OCI distribution spec violation: Expected HTTP Status 200 OK, "
            f"got {status} {phrase} instead".replace("  ", " ")
        )
    kinds: dict[int, type[GuestError]] = {404: NotFoundError, 403: DeniedError}
    kind = kinds.get(status, UnavailableError if status >= 500 else PeerError)
    if 400 <= status < 500:
        try:
            errors = msgspec.json.decode(body, type=prepared(_OciErrors)).errors
        except (msgspec.DecodeError, UnicodeDecodeError):
            errors = ()
        if errors:
            said = ", ".join(
                f"OCI API error: {_shown(each.message or each.code)}" for each in errors[:5]
            )
            return kind(f"Registry error: url {url}, envelope: OCI API errors: [{said}]")
    return kind(f"Server error: url {url}, code: {status}, message: {_shown(body)}")


def _shown(words: str | bytes) -> str:
    text = words.decode("utf-8", "replace") if isinstance(words, bytes) else words
    return "".join(each if each.isprintable() else " " for each in text[:MAX_SHOWN])
