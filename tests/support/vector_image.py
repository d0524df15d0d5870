"""The image of docs/spec/image-pull.md 21.1, built again byte by byte."""

import io
import json
import struct
import tarfile
import zlib
from dataclasses import dataclass, field
from pathlib import Path

from guest_simulator.registry.server import Registry

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"


@dataclass(frozen=True)
class Member:
    """One tar entry; `data` is a link's target where it is one."""

    name: str
    kind: bytes
    mode: int
    data: str = ""
    owner: int = 0
    time: int = field(default=0)


DIR, FILE = tarfile.DIRTYPE, tarfile.REGTYPE
LOWER = (
    Member("etc", DIR, 0o755),
    Member("etc/os-release", FILE, 0o644, "ID=test\n"),
    Member("etc/passwd", FILE, 0o644, "root:x:0:0:root:/root:/bin/sh\n"),
    Member("tmp", DIR, 0o1777),
    Member("bin", DIR, 0o755),
    Member("bin/app", FILE, 0o4755, "#!/bin/sh\n"),
    Member("bin/app2", tarfile.LNKTYPE, 0o4755, "bin/app"),
    Member("bin/sh", tarfile.SYMTYPE, 0o777, "/bin/app"),
    Member("var", DIR, 0o755),
    Member("var/old", FILE, 0o644, "old"),
)
UPPER = (
    Member("etc", DIR, 0o755),
    Member("etc/.wh.passwd", FILE, 0o644),
    Member("var", DIR, 0o755),
    Member("var/.wh..wh..opq", FILE, 0o644),
    Member("var/new", FILE, 0o644, "new", owner=1000, time=1700000000),
)


def layer(members: tuple[Member, ...]) -> bytes:
    """A layer's blob: ustar in a gzip frame with one stored block."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for member in members:
            info = tarfile.TarInfo(member.name)
            info.type, info.mode, info.mtime = member.kind, member.mode, member.time
            info.uid = info.gid = member.owner
            content = member.data.encode() if member.kind == FILE else b""
            info.size = len(content)
            info.linkname = "" if member.kind == FILE else member.data
            archive.addfile(info, io.BytesIO(content))
    tar = buffer.getvalue()
    block = b"\x01" + struct.pack("<HH", len(tar), len(tar) ^ 0xFFFF) + tar
    end = struct.pack("<II", zlib.crc32(tar), len(tar))
    return bytes.fromhex("1f8b08000000000000ff") + block + end


def push(registry: Registry, vectors: Path, name: str = "t/base") -> tuple[str, str]:
    """Store it: tag `latest` for the manifest, `index` for the index; both digests."""
    image = json.loads((vectors / "image_pull" / "image.json").read_text())
    for blob in (image["config"].encode(), layer(LOWER), layer(UPPER)):
        registry.put_blob(name, blob)
    manifest = registry.put_manifest(name, "latest", MANIFEST, image["manifest"].encode())
    index = registry.put_manifest(name, "index", INDEX, image["index"].encode())
    assert (manifest, index) == (image["manifest_digest"], image["index_digest"])
    return manifest, index
