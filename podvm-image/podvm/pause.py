"""The bundle of the pod's first container, `/pause_bundle`: from an image, and checked. Sans-I/O.

The Kata agent copies it for every sandbox; nothing pulls that image inside the guest.

Source: docs/spec/podvm-image.md 2 and 12.5; OCI image-spec "Image Configuration"; OCI
runtime-spec "Configuration".
"""

import io
import json
import tarfile
from collections.abc import Mapping, Sequence
from typing import Final

from podvm.errors import ImageError

FOLDER: Final = "pause_bundle"
CONFIG: Final = "config.json"
ROOTFS: Final = "rootfs"
MAX_FILES: Final = 64
"""Most files of the image; it is one static program."""

_PATH: Final = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def bundle(config: bytes, layers: Sequence[bytes]) -> dict[str, tuple[bytes, int]]:
    """Files of the bundle by path below it, each with its mode.

    Args:
        config: the image's configuration.
        layers: uncompressed tar archives, bottom first.

    Raises:
        ImageError: the image is not as plain as a pause image must be.
    """
    files: dict[str, tuple[bytes, int]] = {}
    for layer in layers:
        files |= {f"{ROOTFS}/{name}": found for name, found in _files(layer).items()}
    if len(files) > MAX_FILES:
        raise ImageError(f"the pause image has {len(files)} files, more than {MAX_FILES}")
    files[CONFIG] = (_runtime(config), 0o644)
    program(files[CONFIG][0], {name: mode for name, (_, mode) in files.items()})
    return files


def program(config: bytes, modes: Mapping[str, int]) -> str:
    """Where the program of a bundle is, below the bundle.

    Args:
        config: text of its `config.json`.
        modes: mode of every file of the bundle by its path below the bundle.

    Raises:
        ImageError: the first argument is not absolute, or no executable file of the root.
    """
    try:
        first = json.loads(config)["process"]["args"][0]
    except (ValueError, LookupError, TypeError) as error:
        raise ImageError("the pause bundle's config.json names no program") from error
    parts = first.split("/") if isinstance(first, str) else []
    if len(parts) < 2 or parts[0] or not set(parts[1:]).isdisjoint(("", ".", "..")):
        raise ImageError(f"the pause bundle's program {first!r} is no absolute path")
    path = f"{ROOTFS}{first}"
    if not modes.get(path, 0) & 0o111:
        raise ImageError(f"the pause bundle has no program {first}")
    return path


def _files(layer: bytes) -> dict[str, tuple[bytes, int]]:
    found: dict[str, tuple[bytes, int]] = {}
    try:
        with tarfile.open(fileobj=io.BytesIO(layer), mode="r:") as archive:
            for entry in archive:
                parts = [part for part in entry.name.split("/") if part not in ("", ".")]
                if ".." in parts or any(part.startswith(".wh.") for part in parts):
                    raise ImageError(f"the pause image has an entry {entry.name!r}")
                if entry.isdir():
                    continue
                content = archive.extractfile(entry) if entry.isreg() and parts else None
                if content is None:
                    raise ImageError(f"the pause image has more than files: {entry.name!r}")
                mode = 0o755 if entry.mode & 0o111 else 0o644
                found["/".join(parts)] = (content.read(), mode)
    except tarfile.TarError as error:
        raise ImageError(f"a layer of the pause image is no tar archive: {error}") from error
    return found


def _runtime(config: bytes) -> bytes:
    """The runtime's configuration from the image's."""
    try:
        image = json.loads(config)["config"]
        arguments = [*(image.get("Entrypoint") or []), *(image.get("Cmd") or [])]
        variables = list(image.get("Env") or [_PATH])
        directory = str(image.get("WorkingDir") or "/")
        user = str(image.get("User") or "0")
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise ImageError("the pause image has no configuration") from error
    uid, _, gid = user.partition(":")
    if not uid.isdecimal() or not (gid or "0").isdecimal():
        raise ImageError(f"the pause image runs as {user!r}, which is no number")
    document = {
        "ociVersion": "1.0.2",
        "process": {
            "terminal": False,
            "user": {"uid": int(uid), "gid": int(gid or "0")},
            "args": arguments,
            "env": variables,
            "cwd": directory,
        },
        "root": {"path": ROOTFS, "readonly": True},
    }
    return json.dumps(document, indent=1).encode() + b"\n"
