"""The registry: `async with Registry() as registry`."""

import re
import ssl
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from guest_simulator.control import Control
from guest_simulator.encoding import EncodingError, compact_json, parse_object
from guest_simulator.faults import Faults, Lie
from guest_simulator.images.image import Image, Index
from guest_simulator.registry.access import SERVICE, Access, form_of
from guest_simulator.registry.replies import blob_reply, problem
from guest_simulator.registry.store import (
    DIGEST,
    BlobStore,
    DirectoryBlobs,
    Manifest,
    MemoryBlobs,
    Repositories,
    digest_of,
)
from guest_simulator.registry.uploads import Uploads
from guest_simulator.reply import FilePart, Reply
from guest_simulator.request_log import RequestLog
from guest_simulator.service import HttpService, Incoming, TooLargeError

_NAME: Final = r"(?P<name>[a-z0-9]+(?:[._-]+[a-z0-9]+)*(?:/[a-z0-9]+(?:[._-]+[a-z0-9]+)*)*)"
ROUTE: Final = re.compile(
    rf"/v2/{_NAME}/(?P<kind>manifests|blobs/uploads|blobs|tags|referrers)/(?P<last>[^/]*)\Z"
)
CDN: Final = re.compile(r"/cdn/(?P<digest>[a-z0-9]+:[0-9a-f]+)\Z")
MANIFEST_LIMIT: Final = 4 * 1024 * 1024
"""Bytes of a pushed manifest."""

JSON: Final = "application/json"
INDEX_TYPE: Final = "application/vnd.oci.image.index.v1+json"


class Registry:
    """An OCI distribution registry on loopback.

    Attributes:
        access: who may do what.
        repositories: what it holds.
        redirect: answer blobs with a 307 to another origin (`localhost`, path `/cdn/`).
        ranges: serve `Range` requests; else they get the whole.
    """

    def __init__(
        self,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        tls: ssl.SSLContext | None = None,
        access: Access | None = None,
        directory: Path | None = None,
        redirect: bool = False,
        ranges: bool = True,
    ) -> None:
        """Make one that does not listen yet.

        Args:
            host: address to bind.
            port: 0 for any.
            tls: server context, see `guest_simulator.cert`; None for plain HTTP.
            access: rules; the default asks nobody.
            directory: where blobs lie as files; None keeps them in memory. Manifests and tags
                are always in memory.
            redirect: see the attribute.
            ranges: see the attribute.
        """
        blobs: BlobStore = DirectoryBlobs(directory) if directory else MemoryBlobs()
        self.access = access or Access()
        self.repositories = Repositories(blobs)
        self.redirect = redirect
        self.ranges = ranges
        self._uploads = Uploads(self.repositories)
        self._service = HttpService(self._handle, host=host, port=port, tls=tls)

    async def __aenter__(self) -> Self:
        await self._service.__aenter__()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._service.__aexit__(kind, error, trace)

    @property
    def host(self) -> str:
        """`host:port`, as it stands in image references."""
        return self._service.address

    @property
    def url(self) -> str:
        """`http://host:port` or `https://host:port`."""
        return self._service.url

    @property
    def port(self) -> int:
        """The TCP port."""
        return self._service.port

    @property
    def faults(self) -> Faults:
        """What goes wrong."""
        return self._service.faults

    @property
    def requests(self) -> RequestLog:
        """What was asked."""
        return self._service.requests

    def put_blob(self, name: str, data: bytes) -> str:
        """Store a blob in a repository; its SHA-256 digest."""
        draft = self.repositories.blobs.draft()
        draft.append(data)
        digest = draft.digest("sha256")
        self.repositories.blobs.keep(draft, digest)
        self.repositories.link(name, digest)
        return digest

    def put_manifest(self, name: str, reference: str, media_type: str, data: bytes) -> str:
        """Store any bytes as a manifest, unchecked; the digest."""
        manifest = Manifest(media_type=media_type, data=data)
        return self.repositories.put_manifest(name, reference, manifest)

    def push_image(self, reference: str, image: Image | Index) -> str:
        """Store an image or index under `name:tag`; the digest of its manifest."""
        name, _, tag = reference.rpartition(":")
        if not name:
            name, tag = reference, "latest"
        for data in image.blobs.values():
            self.put_blob(name, data)
        for document in image.manifests:
            digest = self.put_manifest(name, tag, document.media_type, document.data)
        return digest

    def get_manifest(self, name: str, reference: str) -> tuple[str, bytes]:
        """Media type and bytes by tag or digest.

        Raises:
            KeyError: there is none.
        """
        found = self.repositories.find_manifest(name, reference)
        if found is None:
            raise KeyError(f"{name}: no manifest {reference}")
        return found[1].media_type, found[1].data

    def get_blob(self, digest: str) -> bytes:
        """A blob by digest, whatever its repository.

        Raises:
            KeyError: there is none.
        """
        body = self.repositories.blobs.find(digest)
        if body is None:
            raise KeyError(f"no blob {digest}")
        return body.path.read_bytes() if isinstance(body, FilePart) else body

    def allow_control(self) -> None:
        """Let another process steer this server, see `guest_simulator.control`."""
        access = self.access
        self._service.control = Control(
            self.faults,
            self.requests,
            lambda: {"tokens": access.issued},
            {
                "clock_offset": lambda value: setattr(access.clock, "offset", value),
                "token_seconds": lambda value: setattr(access, "token_seconds", value),
            },
        ).answer

    async def _handle(self, request: Incoming) -> Reply:
        if request.path == "/token":
            return await self._token(request)
        if (match := CDN.match(request.path)) is not None:
            return self._cdn(request, match["digest"])
        if request.path in ("/v2", "/v2/"):
            return self._refusal(request, "", "pull") or Reply(
                headers={"Content-Type": JSON, "Docker-Distribution-Api-Version": "registry/2.0"},
                body=b"{}",
            )
        match = ROUTE.match(request.path)
        if match is None:
            return problem(404, "NAME_UNKNOWN", request.path)
        name, kind, last = match["name"], match["kind"], match["last"]
        actions = {"GET": "pull", "HEAD": "pull", "DELETE": "delete"}
        action = "push" if kind == "blobs/uploads" else actions.get(request.method, "push")
        refusal = self._refusal(request, name, action)
        return refusal or await self._dispatch(request, name, kind, last)

    def _refusal(self, request: Incoming, name: str, action: str) -> Reply | None:
        if Lie.DENIAL in request.lies:
            return problem(403, "DENIED", "requested access to the resource is denied")
        if self.access.is_allowed(request.header("Authorization"), name, action):
            return None
        refused = problem(401, "UNAUTHORIZED", "authentication required")
        wanted = "pull,push" if action == "push" else action
        origin = f"{request.scheme}://{request.host}"
        challenge = self.access.challenge(origin, name, wanted)
        headers = {**refused.headers, "WWW-Authenticate": challenge}
        return Reply(status=401, headers=headers, body=refused.body)

    async def _dispatch(self, request: Incoming, name: str, kind: str, last: str) -> Reply:
        match kind, request.method:
            case "manifests", "GET" | "HEAD":
                return self._manifest(name, last)
            case "manifests", "PUT":
                return await self._push_manifest(request, name, last)
            case "manifests", "DELETE":
                gone = self.repositories.delete_manifest(name, last)
                return Reply(status=202) if gone else problem(404, "MANIFEST_UNKNOWN", last)
            case "blobs", "GET" | "HEAD":
                return self._blob(request, name, last)
            case "blobs", "DELETE":
                gone = self.repositories.delete_blob(name, last)
                return Reply(status=202) if gone else problem(404, "BLOB_UNKNOWN", last)
            case "blobs/uploads", "POST" if not last:
                return await self._uploads.begin(request, name)
            case "blobs/uploads", _ if last:
                return await self._uploads.proceed(request, name, last)
            case "tags", "GET" if last == "list":
                return self._tags(name)
            case "referrers", "GET":
                return self._referrers(name, last)
        return problem(405, "UNSUPPORTED", request.method)

    def _manifest(self, name: str, reference: str) -> Reply:
        found = self.repositories.find_manifest(name, reference)
        if found is None:
            return problem(404, "MANIFEST_UNKNOWN", reference)
        digest, manifest = found
        headers = {"Content-Type": manifest.media_type, "Docker-Content-Digest": digest}
        return Reply(headers=headers, body=manifest.data)

    async def _push_manifest(self, request: Incoming, name: str, reference: str) -> Reply:
        try:
            data = await request.read(MANIFEST_LIMIT)
        except TooLargeError:
            return problem(413, "SIZE_INVALID", f"a manifest has at most {MANIFEST_LIMIT} bytes")
        try:
            parse_object(data)
        except EncodingError as error:
            return problem(400, "MANIFEST_INVALID", str(error))
        if DIGEST.match(reference) and digest_of(data, reference.split(":")[0]) != reference:
            return problem(400, "DIGEST_INVALID", reference)
        media_type = request.header("Content-Type") or JSON
        digest = self.put_manifest(name, reference, media_type, data)
        headers = {"Location": f"/v2/{name}/manifests/{digest}", "Docker-Content-Digest": digest}
        return Reply(status=201, headers=headers)

    def _blob(self, request: Incoming, name: str, digest: str) -> Reply:
        body = self.repositories.find_blob(name, digest)
        if body is None:
            return problem(404, "BLOB_UNKNOWN", digest)
        if self.redirect:
            location = f"{request.scheme}://localhost:{self.port}/cdn/{digest}?signature=valid"
            return Reply(status=307, headers={"Location": location})
        return blob_reply(body, digest, request.header("Range"), ranges=self.ranges)

    def _cdn(self, request: Incoming, digest: str) -> Reply:
        """Blobs behind a redirect, as an object store serves them: credentials are an error."""
        if request.header("Authorization"):
            return problem(400, "DENIED", "a credential followed the redirect")
        body = self.repositories.blobs.find(digest)
        if body is None or "signature=valid" not in request.query:
            return problem(403, "DENIED", digest)
        return blob_reply(body, digest, request.header("Range"), ranges=self.ranges)

    def _tags(self, name: str) -> Reply:
        tags = self.repositories.tags(name)
        if tags is None:
            return problem(404, "NAME_UNKNOWN", name)
        body = compact_json({"name": name, "tags": tags})
        return Reply(headers={"Content-Type": JSON}, body=body)

    def _referrers(self, name: str, digest: str) -> Reply:
        found = []
        for own, manifest in self.repositories.manifests(name).items():
            document = parse_object(manifest.data)
            subject = document.get("subject")
            if isinstance(subject, dict) and subject.get("digest") == digest:
                size = len(manifest.data)
                found.append({"mediaType": manifest.media_type, "digest": own, "size": size})
        body = compact_json({"schemaVersion": 2, "mediaType": INDEX_TYPE, "manifests": found})
        return Reply(headers={"Content-Type": INDEX_TYPE}, body=body)

    async def _token(self, request: Incoming) -> Reply:
        text = request.query
        if request.method == "POST":
            text = (await request.read(MANIFEST_LIMIT)).decode("utf-8", "replace")
        form, scopes = form_of(text)
        known = self.access.is_user(request.header("Authorization"))
        if request.method == "POST":
            password = self.access.is_password(form.get("username", ""), form.get("password", ""))
            known = password or form.get("refresh_token") in self.access.refresh_tokens
        offered = bool(request.header("Authorization")) or request.method == "POST"
        if form.get("service", SERVICE) != SERVICE or (offered and not known):
            return problem(401, "UNAUTHORIZED", "wrong credentials")
        if not known and not self.access.anonymous_pull:
            return problem(401, "UNAUTHORIZED", "no credentials")
        token = self.access.issue(scopes, known=known, dead=Lie.EXPIRED_TOKEN in request.lies)
        seconds = int(self.access.token_seconds)
        body = compact_json({"token": token, "access_token": token, "expires_in": seconds})
        return Reply(headers={"Content-Type": JSON}, body=body)
