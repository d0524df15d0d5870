"""Opens what an owner's command reads from and writes to.

Source: docs/spec/image-pull.md 5 (credential files); containers-auth.json(5).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from guest.errors import ConfigError, DecodeError, InvalidInputError, PlatformError
from guest.proxies import Proxies
from image_pull.layout import LayoutDestination, LayoutSource
from image_pull.location import LayoutLocation, Location, RegistryLocation
from image_pull.reference import ImageReference
from image_pull.registry.auth import MAX_FILE, AuthFile, Credentials
from image_pull.registry.oras import Access, OrasRepository
from image_pull.transfer import ImageDestination, ImageSource


@dataclass(frozen=True, slots=True, kw_only=True)
class RegistryOptions:
    """What the command line says of one side's registry.

    Attributes:
        plain_http: no TLS.
        roots: PEM file of the authorities to trust instead of the system's, or None.
        authfiles: credential files; the first that is there is read, no other.
        is_chosen: the user named the file, so it must be there.
        proxies: of the environment.
    """

    plain_http: bool
    roots: Path | None
    authfiles: tuple[Path, ...]
    is_chosen: bool
    proxies: Proxies


def open_source(location: Location, options: RegistryOptions) -> ImageSource:
    """Where an image is read from.

    Raises:
        ConfigError, PlatformError: a credential file cannot be used or read.
        UnsupportedError: registries cannot be reached with what is installed.
    """
    match location:
        case LayoutLocation(directory=directory, tag=tag):
            return LayoutSource(Path(directory), tag)
        case RegistryLocation(reference=reference):
            return OrasRepository(reference, _access(reference, options))


def open_destination(location: Location, options: RegistryOptions) -> ImageDestination:
    """Where an image is written to.

    Raises:
        ConfigError, PlatformError: a credential file cannot be used or read.
        UnsupportedError: registries cannot be reached with what is installed.
    """
    match location:
        case LayoutLocation(directory=directory, tag=tag):
            return LayoutDestination(Path(directory), tag)
        case RegistryLocation(reference=reference):
            return OrasRepository(reference, _access(reference, options))


def _access(reference: ImageReference, options: RegistryOptions) -> Access:
    return Access(
        plain_http=options.plain_http,
        roots=options.roots,
        credentials=_credentials(reference, options),
        proxies=options.proxies,
    )


def _credentials(reference: ImageReference, options: RegistryOptions) -> Credentials | None:
    for path in options.authfiles:
        if not options.is_chosen and not path.exists():
            continue
        try:
            return AuthFile.parse(read_file(path, MAX_FILE)).find(reference)
        except DecodeError as error:
            raise ConfigError(f"{path} cannot be used") from error
    return None


def usual_authfiles(environment: Mapping[str, str]) -> tuple[Path, ...]:
    """Where credentials are when nobody says where, in order."""
    found = []
    if environment.get("REGISTRY_AUTH_FILE"):
        found.append(Path(environment["REGISTRY_AUTH_FILE"]))
    if environment.get("XDG_RUNTIME_DIR"):
        found.append(Path(environment["XDG_RUNTIME_DIR"]) / "containers" / "auth.json")
    if environment.get("HOME"):
        found.append(Path(environment["HOME"]) / ".docker" / "config.json")
    return tuple(found)


def read_file(path: Path, limit: int) -> bytes:
    """A whole small file.

    Raises:
        PlatformError: it cannot be read.
        InvalidInputError: it has more than `limit` bytes.
    """
    try:
        with path.open("rb") as file:
            content = file.read(limit + 1)
    except OSError as error:
        raise PlatformError(f"{path} cannot be read") from error
    if len(content) > limit:
        raise InvalidInputError(f"{path} has more than {limit} bytes")
    return content
