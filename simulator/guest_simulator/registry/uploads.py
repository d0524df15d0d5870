"""Pushing blobs: whole, in pieces, or by mounting one from another repository.

Source: OCI distribution specification, "Pushing Blobs".
"""

import re
import uuid
from collections.abc import Mapping
from typing import Final
from urllib.parse import parse_qsl

from guest_simulator.registry.replies import problem
from guest_simulator.registry.store import DIGEST, Draft, Repositories
from guest_simulator.reply import Reply
from guest_simulator.service import Incoming

CONTENT_RANGE: Final = re.compile(r"(?:bytes )?([0-9]+)-([0-9]+)")


class Uploads:
    """The uploads under way."""

    def __init__(self, repositories: Repositories) -> None:
        self._repositories = repositories
        self._drafts: dict[tuple[str, str], Draft] = {}

    async def begin(self, request: Incoming, name: str) -> Reply:
        """`POST /v2/<name>/blobs/uploads/`."""
        query = dict(parse_qsl(request.query))
        mount, source = query.get("mount", ""), query.get("from", "")
        if mount and self._repositories.find_blob(source, mount) is not None:
            self._repositories.link(name, mount)
            return _created(name, mount)
        draft = self._repositories.blobs.draft()
        if "digest" in query:
            await _fill(draft, request)
            return self._finish(name, draft, query["digest"])
        identity = str(uuid.uuid4())
        self._drafts[name, identity] = draft
        return self._under_way(name, identity, draft, 202)

    async def proceed(self, request: Incoming, name: str, identity: str) -> Reply:
        """`PATCH`, `PUT`, `GET` or `DELETE /v2/<name>/blobs/uploads/<identity>`."""
        draft = self._drafts.get((name, identity))
        if draft is None:
            return problem(404, "BLOB_UPLOAD_UNKNOWN", identity)
        match request.method:
            case "PATCH":
                return await self._append(request, name, identity, draft)
            case "PUT":
                query: Mapping[str, str] = dict(parse_qsl(request.query))
                await _fill(draft, request)
                del self._drafts[name, identity]
                return self._finish(name, draft, query.get("digest", ""))
            case "GET":
                return self._under_way(name, identity, draft, 204)
            case "DELETE":
                del self._drafts[name, identity]
                return Reply(status=204)
        return problem(405, "UNSUPPORTED", request.method)

    async def _append(self, request: Incoming, name: str, identity: str, draft: Draft) -> Reply:
        match = CONTENT_RANGE.match(request.header("Content-Range"))
        if match is not None and int(match[1]) != draft.length:
            return problem(416, "BLOB_UPLOAD_INVALID", f"next byte is {draft.length}")
        await _fill(draft, request)
        return self._under_way(name, identity, draft, 202)

    def _under_way(self, name: str, identity: str, draft: Draft, status: int) -> Reply:
        headers = {
            "Location": f"/v2/{name}/blobs/uploads/{identity}",
            "Range": f"0-{max(0, draft.length - 1)}",
            "Docker-Upload-UUID": identity,
        }
        return Reply(status=status, headers=headers)

    def _finish(self, name: str, draft: Draft, digest: str) -> Reply:
        match = DIGEST.match(digest)
        if match is None or draft.digest(digest.split(":")[0]) != digest:
            return problem(400, "DIGEST_INVALID", digest)
        self._repositories.blobs.keep(draft, digest)
        self._repositories.link(name, digest)
        return _created(name, digest)


async def _fill(draft: Draft, request: Incoming) -> None:
    async for piece in request.chunks():
        draft.append(piece)


def _created(name: str, digest: str) -> Reply:
    headers = {"Location": f"/v2/{name}/blobs/{digest}", "Docker-Content-Digest": digest}
    return Reply(status=201, headers=headers)
