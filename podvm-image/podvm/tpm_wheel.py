"""The wheel of the TPM library, which comes as source: built once, in the tools tree, and kept.

Two builds need not give the same bytes, so the built wheel is an input of the image like any
other: its hash is in the manifest, and the cache (or `COCO_IMAGE_TPM_WHEEL`) holds it.

Source: docs/spec/podvm-image.md 14.3.
"""

import hashlib
import os
import shutil
from pathlib import Path
from typing import Final

from podvm.errors import ImageError
from podvm.requirements import Requirement, parse
from podvm.run import run

LIBRARY: Final = "tpm2-pytss"
RUNTIME: Final = ("cffi", "packaging", "pycparser")
"""What the library needs at run time beside what the services need."""

_BUNDLES: Final = ("PIP_CERT", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE")


def wheel(lock: Path, *, tools: Path, cache: Path) -> Path:
    """The wheel for the Python and the TPM stack of the tools tree.

    Raises:
        ImageError: it cannot be built.
    """
    given = os.environ.get("COCO_IMAGE_TPM_WHEEL")
    if given:
        return Path(given)
    key = hashlib.sha256(lock.read_bytes() + tools.name.encode()).hexdigest()[:16]
    place = cache / f"tpm-{key}"
    if not place.exists():
        fresh = cache / f"tpm-{key}.new"
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir(parents=True)
        _build(parse(lock.read_text("utf-8")), tools, fresh)
        fresh.rename(place)
    found = sorted(place.glob("*.whl"))
    if len(found) != 1:
        raise ImageError(f"{place} holds {len(found)} wheels, not one")
    return found[0]


def runtime(lock: Path) -> tuple[Requirement, ...]:
    """The library's own needs at run time, as the lock pins them."""
    return tuple(entry for entry in parse(lock.read_text("utf-8")) if entry.name in RUNTIME)


def _build(entries: tuple[Requirement, ...], tools: Path, out: Path) -> None:
    work = tools / "tpm"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir()
    (work / "needs.txt").write_text("".join(e.text for e in entries if e.name != LIBRARY))
    (work / "library.txt").write_text("".join(e.text for e in entries if e.name == LIBRARY))
    environment = {"PYTHONPATH": "/tpm/needs", "SOURCE_DATE_EPOCH": "0", "HOME": "/tpm"}
    for name in _BUNDLES:
        bundle = Path(os.environ.get(name, "/etc/ssl/certs/ca-certificates.crt"))
        if bundle.is_file():
            shutil.copy(bundle, work / "ca.pem")
            environment["PIP_CERT"] = environment["SSL_CERT_FILE"] = "/tpm/ca.pem"
            break
    shutil.copy("/etc/resolv.conf", tools / "etc/resolv.conf")
    pip = ["chroot", str(tools), "python3", "-m", "pip", "--disable-pip-version-check"]
    run([*pip, "install", "--quiet", "--break-system-packages", "--require-hashes", "--no-deps",
         "--only-binary=:all:", "--target=/tpm/needs", "-r", "/tpm/needs.txt"],
        environment=environment, inherit=True)  # fmt: skip
    run([*pip, "wheel", "--quiet", "--require-hashes", "--no-deps", "--no-build-isolation",
         "--wheel-dir=/tpm/out", "-r", "/tpm/library.txt"],
        environment=environment, inherit=True)  # fmt: skip
    for built in (work / "out").glob("*.whl"):
        shutil.copy(built, out)
    shutil.rmtree(work)
    (tools / "etc/resolv.conf").unlink()
