"""The owner's side of a registry: read an image, push blobs and manifests, through `oras`.

`oras` brings the session, the token exchange and the URLs. What it lacks is added here: a time
limit on every request, exact manifest bytes, uploads from a stream, no credentials for a token
server without TLS. Everything blocks. The guest's pull path does not come here.

Source: OCI distribution-spec "Pull", "Push"; docs/spec/image-pull.md 5 and 6.
"""

import functools
import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from guest.crypto.digest import Digest, HashAlgorithm
from guest.errors import (
    DecodeError,
    DeniedError,
    GuestError,
    IntegrityError,
    InvalidInputError,
    LimitError,
    NotFoundError,
    PeerError,
    UnauthenticatedError,
    UnavailableError,
    UnsupportedError,
    foreign_text,
)
from guest.proxies import Proxies
from image_pull.manifest import ACCEPT, MAX_DOCUMENT
from image_pull.reference import ImageReference
from image_pull.registry.auth import Credentials, parse_challenges
from image_pull.transfer import Document, verified

CONNECT_SECONDS: Final = 15.0
IDLE_SECONDS: Final = 60.0
"""Seconds without a byte after which a request fails."""

CHUNK: Final = 1024 * 1024
SYSTEM_ROOTS: Final = ("/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt")
"""Files of certificate authorities that a Linux system keeps; the first that is there is used."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """How one registry is reached.

    Attributes:
        plain_http: no TLS.
        roots: PEM file of the authorities to trust instead of the system's, or None.
        credentials: or None for an anonymous user.
        proxies: of the environment.
    """

    plain_http: bool = False
    roots: Path | None = None
    credentials: Credentials | None = None
    proxies: Proxies = field(default_factory=Proxies)


class OrasRepository:
    """One repository: source and destination of images; for use from several threads."""

    def __init__(self, reference: ImageReference, access: Access) -> None:
        """Make a session; nothing is sent yet.

        Raises:
            UnsupportedError: `oras` is not installed, or cannot use these credentials.
        """
        self._reference = reference
        self._access = access
        self._registry = _open_registry(reference.network_host, access)
        self._container = _container(reference)
        self._header = _first_header(access.credentials)

    def root(self) -> Document:
        """The manifest or index that the reference names.

        Raises:
            GuestError: it cannot be had.
        """
        digest = None
        if self._reference.digest is not None:
            digest = _parse_digest(self._reference.digest)
        return self._document(self._reference.selector, digest)

    def document(self, digest: Digest) -> Document:
        """A manifest or index by its digest, checked.

        Raises:
            GuestError: it cannot be had.
        """
        return self._document(str(digest), digest)

    def _document(self, selector: str, digest: Digest | None) -> Document:
        url = self._url(self._container.manifest_url(selector))
        with self._send("GET", url, headers={"Accept": ACCEPT}, stream=True) as answer:
            self._check(answer, 200, f"manifest {selector}")
            body = bytearray()
            for chunk in _content(answer, url):
                body += chunk
                if len(body) > MAX_DOCUMENT:
                    raise LimitError(f"manifest {selector} has more than {MAX_DOCUMENT} bytes")
            media_type = answer.headers.get("Content-Type")
        computed = (digest.algorithm if digest else HashAlgorithm.SHA256).of(body)
        if digest is not None:
            digest.verify(computed.value, f"manifest {selector}")
        return Document(body=bytes(body), media_type=media_type, digest=computed)

    def read(self, digest: Digest, size: int) -> Iterator[bytes]:
        """A blob in chunks; raises at the end if it is not what it should be.

        Raises:
            GuestError: it cannot be had.
            IntegrityError: size or digest differ.
        """
        url = self._url(self._container.get_blob_url(str(digest)))
        return verified(self._blob(url, digest), digest, size, f"blob {digest}")

    def _blob(self, url: str, digest: Digest) -> Iterator[bytes]:
        with self._send("GET", url, headers={}, stream=True) as answer:
            self._check(answer, 200, f"blob {digest}")
            yield from _content(answer, url)

    def prepare(self) -> None:
        """Begin an upload and give it up: a registry that lets nobody push says so now.

        Raises:
            InvalidInputError: the reference has a digest, which a new image cannot have.
            GuestError: the registry refuses or cannot be reached.
        """
        if self._reference.digest is not None:
            raise InvalidInputError(f"{self._reference}: a destination is named by a tag alone")
        self._abandon(self._begin_upload())

    def has(self, digest: Digest, size: int) -> bool:
        """Whether the repository has the blob.

        Raises:
            GuestError: the registry does not say.
        """
        url = self._url(self._container.get_blob_url(str(digest)))
        with self._send("HEAD", url, headers={}) as answer:
            if answer.status_code == 404:
                return False
            self._check(answer, 200, f"blob {digest}")
            return answer.headers.get("Content-Length") in (None, str(size))

    def write(self, chunks: Iterable[bytes]) -> tuple[Digest, int]:
        """Upload a blob in one stream, as docker does; its name is told at the end.

        Raises:
            GuestError: the registry refuses or is lost, or what `chunks` raised; the upload was
                given up.
        """
        hasher, size = HashAlgorithm.SHA256.new(), 0

        def counted() -> Iterator[bytes]:
            nonlocal size
            for chunk in chunks:
                hasher.update(chunk)
                size += len(chunk)
                if chunk:
                    yield chunk

        location = self._begin_upload()
        try:
            answer = self._request("PATCH", location, self._octets(), data=counted())
            with answer:
                self._check(answer, 202, "upload")
                location = self._location(answer, location)
            digest = Digest(HashAlgorithm.SHA256, hasher.digest())
            joint = "&" if "?" in location else "?"
            finish = f"{location}{joint}digest={digest.algorithm.value}%3A{digest.hex}"
            with self._send("PUT", finish, headers=self._octets() | {"Content-Length": "0"}) as end:
                self._check(end, 201, f"blob {digest}")
        except BaseException:
            self._abandon(location)
            raise
        return digest, size

    def put_document(self, body: bytes, media_type: str, *, is_root: bool) -> Digest:
        """Upload a manifest or index, byte for byte; the root one under the reference's tag.

        Raises:
            GuestError: the registry refuses.
            IntegrityError: the registry stored other bytes.
        """
        digest = HashAlgorithm.SHA256.of(body)
        selector = self._reference.selector if is_root else str(digest)
        url = self._url(self._container.manifest_url(selector))
        with self._send("PUT", url, headers={"Content-Type": media_type}, data=body) as answer:
            self._check(answer, 201, f"manifest {selector}")
            stored = answer.headers.get("Docker-Content-Digest")
        if stored is not None and stored != str(digest):
            raise IntegrityError(f"registry stored {digest} as {stored[:100]}")
        return digest

    def close(self) -> None:
        """Let go of connections."""
        self._registry.session.close()

    def _url(self, path: str) -> str:
        return f"{self._registry.prefix}://{path}"

    def _octets(self) -> dict[str, str]:
        return {"Content-Type": "application/octet-stream"}

    def _begin_upload(self) -> str:
        url = self._url(self._container.upload_blob_url())
        headers = {"Content-Length": "0"}
        with self._send("POST", url, headers=headers) as answer:
            self._check(answer, 202, "upload")
            return self._location(answer, url)

    def _location(self, answer: Any, before: str) -> str:
        location: str = self._registry._get_location(answer, self._container)
        if not location:
            raise PeerError(f"registry {self._reference.registry} gave no place to upload to")
        if before.startswith("https:") and not location.startswith("https:"):
            raise PeerError(f"registry {self._reference.registry} wants an upload without TLS")
        return location

    def _abandon(self, location: str) -> None:
        with suppress(GuestError):  # the registry forgets it by itself in time
            self._request("DELETE", location, {}).close()

    def _send(self, method: str, url: str, headers: Mapping[str, str], **options: Any) -> Any:
        """Send; answer the first 401 with credentials and send again."""
        answer = self._request(method, url, headers, **options)
        if answer.status_code != 401:
            return answer
        challenge = answer.headers.get("WWW-Authenticate", "")
        self._authenticate(answer, challenge)
        answer.close()
        return self._request(method, url, headers, **options)

    def _request(self, method: str, url: str, headers: Mapping[str, str], **options: Any) -> Any:
        sent = {"Accept-Encoding": "identity", "User-Agent": "coco-guest"} | dict(headers)
        if self._header is not None and _origin(url) == self._origin():
            sent["Authorization"] = self._header
        try:
            return self._registry.session.request(method, url, headers=sent, **options)
        except OSError as error:
            raise UnavailableError(f"registry {self._reference.registry}") from _named(error)

    def _origin(self) -> str:
        return f"{self._registry.prefix}://{self._reference.network_host}"

    def _authenticate(self, answer: Any, header: str) -> None:
        try:
            offered = {each.scheme: each.parameters for each in parse_challenges(header)}
        except DecodeError as error:
            raise PeerError(f"registry {self._reference.registry} asks unreadably") from error
        credentials = self._access.credentials
        if "bearer" in offered:
            realm = offered["bearer"].get("realm", "")
            if not self._access.plain_http and not realm.startswith("https://"):
                raise PeerError(f"token server {realm[:200]!r} has no TLS")
            try:
                found, changed = self._registry.auth.authenticate_request(answer, {}, refresh=True)
            except (OSError, ValueError) as error:
                raise UnavailableError(f"token server {realm[:200]!r}") from _named(error)
            if changed:
                self._header = found["Authorization"]
                return
        elif "basic" in offered and credentials is not None and credentials.basic is not None:
            self._header = credentials.basic_header()
            return
        who = "these credentials" if credentials is not None else "an anonymous user"
        raise UnauthenticatedError(f"registry {self._reference.registry} refuses {who}")

    def _check(self, answer: Any, expected: int, what: str) -> None:
        status = answer.status_code
        if status == expected:
            return
        text = f"registry {self._reference.registry}, {what}: status {status}{_reason(answer)}"
        match status:
            case 401:
                raise UnauthenticatedError(text)
            case 403:
                raise DeniedError(text)
            case 404:
                raise NotFoundError(text)
            case 429 | 500 | 502 | 503 | 504:
                raise UnavailableError(text)
            case _:
                raise PeerError(text)


def _open_registry(host: str, access: Access) -> Any:
    try:
        import oras.provider
    except ImportError as error:
        raise UnsupportedError("registries need the extra `oras` of this package") from error
    roots = access.roots or next((path for path in SYSTEM_ROOTS if Path(path).exists()), None)
    registry = oras.provider.Registry(
        hostname=host,
        insecure=access.plain_http,
        tls_verify=str(roots) if roots is not None else True,
    )
    session = registry.session
    session.trust_env = False
    proxy = access.proxies.for_url(f"{registry.prefix}://{host}/")
    session.proxies = {registry.prefix: proxy} if proxy else {}
    session.verify = registry._tls_verify
    session.request = functools.partial(session.request, timeout=(CONNECT_SECONDS, IDLE_SECONDS))
    _give_credentials(registry, access.credentials)
    return registry


def _give_credentials(registry: Any, credentials: Credentials | None) -> None:
    if credentials is None:
        return
    if credentials.identity_token is not None:
        raise UnsupportedError("registry credentials with an identity token cannot be used here")
    if credentials.basic is not None:
        user, _, password = credentials.basic.reveal().decode().partition(":")
        registry.auth.set_basic_auth(user, password)


def _first_header(credentials: Credentials | None) -> str | None:
    if credentials is None or credentials.registry_token is None:
        return None
    return f"Bearer {credentials.registry_token.reveal().decode()}"


def _container(reference: ImageReference) -> Any:
    import oras.container

    container = oras.container.Container("placeholder")
    folder, _, name = reference.repository.rpartition("/")
    container.registry = reference.network_host
    container.namespace = folder or None
    container.repository = name
    return container


def _parse_digest(text: str) -> Digest:
    try:
        return Digest.parse(text.lower())
    except DecodeError as error:
        raise InvalidInputError(f"{text[:100]!r} is not a digest") from error


def _content(answer: Any, url: str) -> Iterator[bytes]:
    try:
        yield from answer.iter_content(CHUNK)
    except OSError as error:
        raise UnavailableError(f"{url.partition('?')[0]} broke off") from _named(error)


def _origin(url: str) -> str:
    scheme, _, rest = url.partition("://")
    return f"{scheme}://{rest.partition('/')[0]}"


def _named(error: BaseException) -> GuestError:
    """A library's error without the chain below it, which holds whole requests."""
    return GuestError(foreign_text(error))


def _reason(answer: Any) -> str:
    try:
        first = json.loads(next(answer.iter_content(4096), b""))["errors"][0]
        return f", {first.get('code')}: {str(first.get('message'))[:200]}"
    except (ValueError, LookupError, TypeError, AttributeError, OSError):
        return ""
