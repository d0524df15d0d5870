"""Programs of others in the image: from a directory, else from a registry by pinned digest.

What comes from a registry is kept in the cache by digest and checked whenever it is used, so a
second build needs no network. What is neither given nor pinned is absent; its units stay off.

Source: docs/spec/podvm-image.md 3.3, 4.2 and 16 (inputs).
"""

import gzip
import hashlib
import io
import lzma
import os
import tarfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import zstandard

from guest.crypto.digest import Digest
from guest.errors import DecodeError, GuestError
from guest.proxies import Proxies
from image_pull.artifact import TITLE
from image_pull.manifest import Descriptor, Manifest, parse_document
from image_pull.reference import ImageReference
from image_pull.registry.oras import Access, OrasRepository
from podvm import pause, pinned
from podvm.errors import ImageError
from podvm.manifest import Program
from podvm.pinned import PAUSE, PROGRAMS, Pinned

BIN: Final = "usr/local/bin"
MAX_SIZE: Final = 512 * 1024 * 1024
"""Most bytes of a blob, and of what comes out of an archive."""

_GZIP: Final = b"\x1f\x8b"
_XZ: Final = b"\xfd7zXZ\0"
_ZSTD: Final = b"\x28\xb5\x2f\xfd"


@dataclass(frozen=True, slots=True, kw_only=True)
class Store:
    """Where artifacts come from.

    Attributes:
        cache: directory of blobs by digest.
        access: how registries are reached.
    """

    cache: Path
    access: Access = field(default_factory=lambda: environment_access(os.environ))


def environment_access(variables: Mapping[str, str]) -> Access:
    """Proxies and authorities as the variables of this process name them.

    Raises:
        ImageError: a proxy that is none.
    """
    bundle = variables.get("SSL_CERT_FILE", "")
    try:
        proxies = Proxies.from_variables(variables)
    except GuestError as error:
        raise ImageError(str(error)) from error
    return Access(roots=Path(bundle) if bundle else None, proxies=proxies)


def install(
    root: Path, given: Path | None, wanted: Iterable[Pinned], store: Store
) -> tuple[Program, ...]:
    """Put programs into a tree; give what was put there.

    Args:
        root: the tree.
        given: directory with `kata-agent`, `agent-protocol-forwarder`, `pause_bundle`; each may
            be missing, and then what is pinned is taken.
        wanted: of `binaries.toml`.
        store: for what is pinned.

    Raises:
        ImageError: a directory that is none, an artifact that cannot be had or differs.
    """
    if given is not None and not given.is_dir():
        raise ImageError(f"{given} is no directory with programs")
    by_name = {entry.name: entry for entry in wanted}
    found = [_program(root, name, given, by_name.get(name), store) for name in PROGRAMS]
    found.append(_pause(root, given, by_name.get(PAUSE), store))
    return tuple(program for program in found if program is not None)


def read_pinned(path: Path) -> tuple[Pinned, ...]:
    """The entries of `binaries.toml`.

    Raises:
        ImageError: it cannot be read.
    """
    return pinned.decode(path.read_text("utf-8"))


def units_off(programs: Iterable[Program]) -> list[str]:
    """Programs that are not in the image; the units of the same name do not start."""
    there = {program.name for program in programs}
    return [name for name in PROGRAMS if name not in there]


def report(programs: Iterable[Program]) -> list[str]:
    """A line for each program, for people."""
    by_name = {program.name: program for program in programs}
    lines = [f"{p.name}: {p.source}, sha256 {p.sha256}" for p in by_name.values()]
    for name in units_off(by_name.values()):
        lines.append(f"{name}: not given and not pinned, {name}.path and {name}.service stay off")
    if PAUSE not in by_name:
        lines.append("pause: not given and not pinned, kata-agent cannot start a pod's sandbox")
    return lines


def _program(
    root: Path, name: str, given: Path | None, entry: Pinned | None, store: Store
) -> Program | None:
    if given is not None and (given / name).exists():
        data, source = (given / name).read_bytes(), "directory"
    elif entry is not None:
        data, source = fetch_program(entry, store), entry.reference
    else:
        return None
    _write(root / BIN / name, data, 0o755)
    return Program(name=name, sha256=hashlib.sha256(data).hexdigest(), source=source)


def _pause(root: Path, given: Path | None, entry: Pinned | None, store: Store) -> Program | None:
    if given is not None and (given / pause.FOLDER).exists():
        files, source = _given_bundle(given / pause.FOLDER), "directory"
    elif entry is not None:
        files, source = fetch_pause(entry, store), entry.reference
    else:
        return None
    config = files[pause.CONFIG][0]
    path = pause.program(config, {name: mode for name, (_, mode) in files.items()})
    sha256 = hashlib.sha256(files[path][0]).hexdigest()
    if entry is not None and source != "directory" and sha256 != entry.sha256:
        raise ImageError(f"pause: {path} has sha256 {sha256}, not {entry.sha256}")
    for name, (data, mode) in files.items():
        _write(root / pause.FOLDER / name, data, mode)
    return Program(name=PAUSE, sha256=sha256, source=source)


def _given_bundle(folder: Path) -> dict[str, tuple[bytes, int]]:
    files = {}
    for path in sorted(folder.rglob("*")):
        if path.is_symlink() or not (path.is_file() or path.is_dir()):
            raise ImageError(f"{path}: a pause bundle holds plain files alone")
        if path.is_file() and path.name != "umoci.json":
            mode = 0o755 if path.stat().st_mode & 0o111 else 0o644
            files[str(path.relative_to(folder))] = (path.read_bytes(), mode)
    if pause.CONFIG not in files:
        raise ImageError(f"{folder} has no {pause.CONFIG}")
    return files


def _write(path: Path, data: bytes, mode: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    path.chmod(mode)


def fetch_program(entry: Pinned, store: Store) -> bytes:
    """A program out of its artifact, checked.

    Raises:
        ImageError: it cannot be had, or is not what is pinned.
    """
    with_title = [
        layer
        for layer in _manifest(entry, store).layers
        if layer.annotations.get(TITLE) == entry.file
    ]
    if len(with_title) != 1:
        raise ImageError(f"{entry.reference} has {len(with_title)} files {entry.file!r}, not one")
    data = _blob(entry, with_title[0], store)
    if entry.member:
        data = _member(entry, decompress(data, entry.file))
    found = hashlib.sha256(data).hexdigest()
    if found != entry.sha256:
        raise ImageError(f"{entry.name} of {entry.reference} has sha256 {found}, "
                         f"not {entry.sha256}")  # fmt: skip
    return data


def fetch_pause(entry: Pinned, store: Store) -> dict[str, tuple[bytes, int]]:
    """The files of a pause image's bundle.

    Raises:
        ImageError: it cannot be had, or is not what is pinned.
    """
    manifest = _manifest(entry, store)
    layers = [decompress(_blob(entry, layer, store), "layer") for layer in manifest.layers]
    return pause.bundle(_blob(entry, manifest.config, store), layers)


def decompress(data: bytes, what: str) -> bytes:
    """Undo gzip, xz or zstd, whichever the bytes are; anything else stays as it is.

    Raises:
        ImageError: broken, or more than `MAX_SIZE`.
    """
    source = io.BytesIO(data)
    try:
        if data.startswith(_GZIP):
            with gzip.GzipFile(fileobj=source) as unzipped:
                return _bounded(unzipped.read(MAX_SIZE + 1), what)
        if data.startswith(_XZ):
            with lzma.LZMAFile(source) as unpacked:
                return _bounded(unpacked.read(MAX_SIZE + 1), what)
        if data.startswith(_ZSTD):
            with zstandard.ZstdDecompressor().stream_reader(source) as reader:
                return _bounded(reader.read(MAX_SIZE + 1), what)
    except (OSError, EOFError, lzma.LZMAError, zstandard.ZstdError) as error:
        raise ImageError(f"{what} cannot be decompressed: {error}") from error
    return data


def _bounded(data: bytes, what: str) -> bytes:
    if len(data) > MAX_SIZE:
        raise ImageError(f"{what} holds more than {MAX_SIZE} bytes")
    return data


def _member(entry: Pinned, archive: bytes) -> bytes:
    wanted = entry.member.removeprefix("./").strip("/")
    try:
        with tarfile.open(fileobj=io.BytesIO(archive), mode="r:") as tar:
            for item in tar:
                if item.name.removeprefix("./") == wanted and item.isreg():
                    content = tar.extractfile(item)
                    if content is not None:
                        return content.read()
    except tarfile.TarError as error:
        raise ImageError(f"{entry.file} of {entry.reference} is no tar archive") from error
    raise ImageError(f"{entry.file} of {entry.reference} has no file {entry.member}")


def _manifest(entry: Pinned, store: Store) -> Manifest:
    digest = Digest.parse(entry.digest)
    body = _cached(
        store, digest, lambda: _ask(entry, store, lambda found: found.document(digest).body)
    )
    try:
        document = parse_document(body)
    except DecodeError as error:
        raise ImageError(f"{entry.reference}: {error}") from error
    if not isinstance(document, Manifest):
        raise ImageError(f"{entry.reference} is an index: pin its manifest for linux/amd64")
    return document


def _blob(entry: Pinned, blob: Descriptor, store: Store) -> bytes:
    if blob.size > MAX_SIZE:
        raise ImageError(f"{entry.reference}: blob {blob.digest} has {blob.size} bytes")

    def read(repository: OrasRepository) -> bytes:
        return b"".join(repository.read(blob.digest, blob.size))

    return _cached(store, blob.digest, lambda: _ask(entry, store, read))


def _ask(entry: Pinned, store: Store, read: Callable[[OrasRepository], bytes]) -> bytes:
    try:
        repository = OrasRepository(ImageReference.parse(entry.reference), store.access)
        try:
            return read(repository)
        finally:
            repository.close()
    except GuestError as error:
        raise ImageError(f"{entry.reference}: {error}") from error


def _cached(store: Store, digest: Digest, fetch: Callable[[], bytes]) -> bytes:
    """Bytes of this digest; what the cache holds is checked like what comes by network."""
    path = store.cache / digest.algorithm.value / digest.hex
    if path.exists():
        data = path.read_bytes()
        if digest.algorithm.of(data) == digest:
            return data
        path.unlink()
    data = fetch()
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_suffix(f".{os.getpid()}")
    fresh.write_bytes(data)
    fresh.rename(path)
    return data
