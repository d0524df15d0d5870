"""Manifests of artifacts, whose titles become names of files."""

from guest.errors import DecodeError
from image_pull.artifact import artifact_files
from image_pull.manifest import Manifest, parse_document

TITLED = (
    b'{"mediaType":"a/b+encrypted","digest":"sha256:%s","size":5,'
    b'"annotations":{"org.opencontainers.image.title":"%s"}}'
)
CONFIG = TITLED % (b"00" * 32, b"c")
SEEDS = (
    b'{"schemaVersion":2,"config":' + CONFIG + b',"layers":[' + CONFIG + b"]}",
    b'{"schemaVersion":2,"config":'
    + CONFIG
    + b',"layers":['
    + TITLED % (b"ab" * 32, b"a/b")
    + b","
    + TITLED % (b"cd" * 32, b"c")
    + b"]}",
)


def one_input(data: bytes) -> None:
    """Names of files below a directory, or a DecodeError."""
    try:
        document = parse_document(data)
        if not isinstance(document, Manifest):
            return
        files = artifact_files(document)
    except DecodeError:
        return
    names = [file.parts for file in files]
    assert len(set(names)) == len(names)
    for parts in names:
        assert not {"", ".", ".."} & set(parts)
        assert not any("/" in part or "\0" in part for part in parts)
