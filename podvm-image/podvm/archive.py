"""Debian's archive by way of apt: resolve what is wanted, fetch what is locked, offer it offline.

The mirror is the one that this machine's apt uses, or what `COCO_IMAGE_MIRROR` and
`COCO_IMAGE_SECURITY_MIRROR` name. apt verifies the signatures of the indexes when the lock is
made; afterwards the hashes of the lock are what counts.
"""

import hashlib
import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Final

from podvm.errors import ImageError
from podvm.packages import SETS, Lock, Package, Wanted, index, parse_uris
from podvm.run import run

KEYRING: Final = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
MAIN: Final = "debian"
SECURITY: Final = "security"
_BATCH: Final = 40


def mirrors(environment: Mapping[str, str] | None = None) -> dict[str, str]:
    """The base URLs of the main and the security archive.

    Raises:
        ImageError: this machine's apt knows none.
    """
    variables = os.environ if environment is None else environment
    found = {
        MAIN: variables.get("COCO_IMAGE_MIRROR", ""),
        SECURITY: variables.get("COCO_IMAGE_SECURITY_MIRROR", ""),
    }
    if not all(found.values()):
        listed = run(
            ["apt-get", "indextargets", "--format", "$(ORIGIN)|$(CODENAME)|$(REPO_URI)"],
            inherit=True,
        )
        for line in listed.decode().splitlines():
            origin, codename, uri = line.split("|")
            if origin == "Debian":
                name = SECURITY if codename.endswith("-security") else MAIN
                found[name] = found[name] or uri
    if not all(found.values()):
        raise ImageError("apt here has no Debian mirror: set COCO_IMAGE_MIRROR and "
                         "COCO_IMAGE_SECURITY_MIRROR")  # fmt: skip
    return {name: uri.rstrip("/") for name, uri in found.items()}


def resolve(wanted: Wanted, *, work: Path) -> Lock:
    """Find versions and hashes of everything wanted, dependencies included.

    Args:
        wanted: packages.toml.
        work: an empty directory for apt's state.

    Raises:
        ImageError: apt cannot.
    """
    bases = mirrors()
    options = _apt_root(wanted, bases, work)
    run(["apt-get", *options, "-qq", "update"], inherit=True)
    sets: dict[str, tuple[Package, ...]] = {}
    for name in SETS:
        names = list(wanted.sets[name])
        if name == "unpacked":
            sets[name] = _unpacked(options, names, bases)
            continue
        if name == "debug":
            names += wanted.sets["image"]
        sets[name] = _closure(options, ["?essential", *names], bases)
    return Lock(release=wanted.release, sets=sets)


def locate(wanted: Wanted, names: Sequence[str], *, work: Path) -> tuple[Package, ...]:
    """Find versions and hashes of these packages alone.

    Args:
        wanted: packages.toml.
        names: of packages.
        work: an empty directory for apt's state.

    Raises:
        ImageError: apt cannot.
    """
    bases = mirrors()
    options = _apt_root(wanted, bases, work)
    run(["apt-get", *options, "-qq", "update"], inherit=True)
    printed = run(["apt-get", *options, "-qq", "--print-uris", "download", *names])
    return parse_uris(printed.decode(), bases)


def _apt_root(wanted: Wanted, bases: Mapping[str, str], work: Path) -> list[str]:
    for name in ("etc/apt/apt.conf.d", "etc/apt/preferences.d", "etc/apt/sources.list.d",
                 "etc/apt/trusted.gpg.d", "var/lib/apt/lists/partial", "var/lib/dpkg",
                 "var/cache/apt/archives/partial"):  # fmt: skip
        (work / name).mkdir(parents=True)
    (work / "var/lib/dpkg/status").touch()
    shutil.copy(KEYRING, work / "etc/apt/trusted.gpg.d/")
    suite = wanted.release
    (work / "etc/apt/sources.list").write_text(
        f"deb {bases[MAIN]} {suite} main\ndeb {bases[MAIN]} {suite}-updates main\n"
        f"deb {bases[SECURITY]} {suite}-security main\n"
    )
    settings = {
        "Dir": work, "Dir::State::status": work / "var/lib/dpkg/status",
        "APT::Architecture": wanted.architecture, "APT::Sandbox::User": "root",
        "APT::Install-Recommends": "false", "Acquire::Languages": "none",
        "Acquire::ForceHash": "SHA256", "Acquire::Retries": 3,
    }  # fmt: skip
    return [f"-o={key}={value}" for key, value in settings.items()]


def _closure(
    options: Sequence[str], names: Sequence[str], bases: Mapping[str, str]
) -> tuple[Package, ...]:
    printed = run(["apt-get", *options, "-qq", "-y", "--print-uris", "install", *names])
    return parse_uris(printed.decode(), bases)


def _unpacked(
    options: Sequence[str], names: Sequence[str], bases: Mapping[str, str]
) -> tuple[Package, ...]:
    found: list[str] = []
    for name in names:
        listed = run(["apt-cache", *options, "depends", "--important", name]).decode().split()
        kernels = [word for word in listed if word.startswith("linux-image-6")]
        found += kernels[:1] if name.startswith("linux-image") else [name]
    if len(found) != len(names):
        raise ImageError("the kernel's meta package names no kernel")
    printed = run(["apt-get", *options, "-qq", "--print-uris", "download", *found])
    return parse_uris(printed.decode(), bases)


def fetch(packages: Iterable[Package], cache: Path) -> None:
    """Bring packages into the cache; each is compared with its hash, also when it was there.

    Raises:
        ImageError: a package cannot be had, or is not what the lock says.
    """
    cache.mkdir(parents=True, exist_ok=True)
    absent = [package for package in packages if not (cache / package.file).exists()]
    if absent:
        bases = mirrors()
    for start in range(0, len(absent), _BATCH):
        words: list[str] = []
        for package in absent[start : start + _BATCH]:
            uri = f"{bases[package.archive]}/{package.path.replace('+', '%2b')}"
            words += [uri, str(cache / package.file), f"SHA256:{package.sha256}"]
        run(["/usr/lib/apt/apt-helper", "-o=APT::Sandbox::User=root", "-o=Acquire::Retries=3",
             "download-file", *words], inherit=True)  # fmt: skip
    for package in packages:
        verify(package, cache / package.file)


def verify(package: Package, path: Path) -> None:
    """Compare a file with the lock; a wrong one is removed.

    Raises:
        ImageError: it differs or is not there.
    """
    try:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise ImageError(f"{package.name}: {error}") from error
    if digest != package.sha256:
        path.unlink()
        raise ImageError(f"{package.name}: the file fetched is not the one of the lock")


def offer(packages: Sequence[Package], cache: Path, repository: Path) -> str:
    """Make a local repository of exactly these packages; give its line for sources.list."""
    shutil.rmtree(repository, ignore_errors=True)
    repository.mkdir(parents=True)
    paragraphs = []
    for package in packages:
        os.link(cache / package.file, repository / package.file)
        control = run(["dpkg-deb", "--field", repository / package.file]).decode()
        paragraphs.append((package, control))
    (repository / "Packages").write_text(index(paragraphs))
    return f"deb [trusted=yes] copy:{repository} ./"
