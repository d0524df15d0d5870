"""A registry's answers: errors, and blobs with ranges.

Source: OCI distribution specification, "Error Codes"; RFC 9110 §14.
"""

import re
from dataclasses import replace
from typing import Final

from guest_simulator.encoding import compact_json
from guest_simulator.reply import FilePart, Reply

RANGE: Final = re.compile(r"bytes=([0-9]*)-([0-9]*)\Z")


def problem(status: int, code: str, message: str = "") -> Reply:
    """An error in the registry's form."""
    body = compact_json({"errors": [{"code": code, "message": message or code, "detail": None}]})
    return Reply(status=status, headers={"Content-Type": "application/json"}, body=body)


def blob_reply(body: bytes | FilePart, digest: str, wanted: str, *, ranges: bool) -> Reply:
    """A blob, or the part of it that a `Range` header asks for.

    Args:
        body: the whole blob.
        digest: its name.
        wanted: the header, empty for the whole; what does not parse is ignored.
        ranges: whether ranges are served at all.
    """
    length = body.length if isinstance(body, FilePart) else len(body)
    headers = {"Content-Type": "application/octet-stream", "Docker-Content-Digest": digest}
    if ranges:
        headers["Accept-Ranges"] = "bytes"
    match = RANGE.match(wanted) if ranges else None
    if match is None or not (match[1] or match[2]):
        return Reply(headers=headers, body=body)
    if match[1]:
        start, end = int(match[1]), min(int(match[2] or length - 1), length - 1)
    else:
        start, end = max(0, length - int(match[2])), length - 1
    if start >= length or end < start:
        refusal = problem(416, "RANGE_INVALID", wanted)
        return replace(refusal, headers={**refusal.headers, "Content-Range": f"bytes */{length}"})
    headers["Content-Range"] = f"bytes {start}-{end}/{length}"
    return Reply(status=206, headers=headers, body=_part(body, start, end + 1 - start))


def _part(body: bytes | FilePart, start: int, length: int) -> bytes | FilePart:
    if isinstance(body, FilePart):
        return replace(body, start=body.start + start, length=length)
    return body[start : start + length]
