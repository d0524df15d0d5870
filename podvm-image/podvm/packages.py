"""Debian packages: what is wanted, what is locked, what an apt index says. Sans-I/O.

Source: docs/spec/podvm-image.md 16 (inputs).
"""

import json
import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Final
from urllib.parse import unquote

from podvm.errors import ImageError

SETS: Final = ("image", "debug", "unpacked", "tools")
"""The lists of packages.toml; `debug` is installed on top of `image`."""

_URI: Final = re.compile(r"^'([^']+)' (\S+) (\d+) SHA256:([0-9a-f]{64})$")
_NAME: Final = re.compile(r"[a-z0-9][a-z0-9+.-]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """packages.toml.

    Attributes:
        release: the suite's code name.
        architecture: Debian's name of it.
        sets: package names by the set's name.
    """

    release: str
    architecture: str
    sets: Mapping[str, tuple[str, ...]]

    @classmethod
    def decode(cls, text: str) -> "Wanted":
        """Parse the file.

        Raises:
            ImageError: a set is missing or a name is none.
        """
        document = tomllib.loads(text)
        sets = {name: tuple(document.get(name, ())) for name in SETS}
        for name, packages in sets.items():
            if not packages or not all(_NAME.fullmatch(package) for package in packages):
                raise ImageError(f"packages.toml: set {name} is empty or has a bad name")
        return cls(release=document["release"], architecture=document["architecture"], sets=sets)


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Package:
    """One locked package.

    Attributes:
        name: of the binary package.
        version: Debian's.
        file: name of the .deb.
        archive: index of its repository in `Lock.archives`.
        path: of the .deb below the repository.
        size: bytes.
        sha256: lowercase hexadecimal.
    """

    name: str
    version: str
    file: str
    archive: str
    path: str
    size: int
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Lock:
    """packages.lock.json: the packages of each set, dependencies included."""

    release: str
    sets: Mapping[str, tuple[Package, ...]]

    def encode(self) -> str:
        """The file's text."""
        sets = {name: [asdict(package) for package in found] for name, found in self.sets.items()}
        return json.dumps({"release": self.release, "sets": sets}, indent=1) + "\n"

    @classmethod
    def decode(cls, text: str) -> "Lock":
        """Parse the file.

        Raises:
            ImageError: it is not of this form.
        """
        try:
            document = json.loads(text)
            sets = {
                name: tuple(Package(**entry) for entry in entries)
                for name, entries in document["sets"].items()
            }
            return cls(release=document["release"], sets=sets)
        except (ValueError, KeyError, TypeError) as error:
            raise ImageError(f"packages.lock.json: {error}") from error


def parse_uris(text: str, bases: Mapping[str, str]) -> tuple[Package, ...]:
    """What `apt-get --print-uris` prints with SHA-256 forced.

    Args:
        text: its output.
        bases: URL of each archive by name.

    Raises:
        ImageError: a line is of another form or of another archive.
    """
    return tuple(sorted(_parse_uri(line, bases) for line in text.splitlines() if line.strip()))


def _parse_uri(line: str, bases: Mapping[str, str]) -> Package:
    match = _URI.match(line)
    if match is None:
        raise ImageError(f"apt printed no SHA-256: {line}")
    uri, file, size, sha256 = match.groups()
    homes = [name for name, base in bases.items() if uri.startswith(base.rstrip("/") + "/")]
    if len(homes) != 1:
        raise ImageError(f"{uri} is of no known archive")
    archive = homes[0]
    path = unquote(uri[len(bases[archive].rstrip("/")) + 1 :])
    name, version, _ = unquote(file).split("_", 2)
    return Package(
        name=name,
        version=unquote(version),
        file=f"{name}_{unquote(version).replace(':', '%3a')}_{sha256[:8]}.deb",
        archive=archive,
        path=path,
        size=int(size),
        sha256=sha256,
    )


def index(paragraphs: Iterable[tuple[Package, str]]) -> str:
    """A repository's `Packages` file from packages and their control paragraphs."""
    return "".join(
        f"{control.strip()}\nFilename: ./{package.file}\nSize: {package.size}\n"
        f"SHA256: {package.sha256}\n\n"
        for package, control in paragraphs
    )
