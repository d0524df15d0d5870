"""What user data and init data make of `/run/peerpod`: decided before a byte is written. Sans-I/O.

Source: docs/spec/podvm-image.md 2, 5.4, 5.5, 18.1 and 20 ("Unmeasured configuration").
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from guest.crypto.digest import Digest
from guest.errors import DecodeError
from guest.initdata import InitData
from guest.initdata_build import ALGORITHMS
from guest.initdata_form import pack, unpack
from guest.userdata.parse import UserFile

DIRECTORY: Final = "/run/peerpod"

INIT_DATA_FILE: Final = "initdata"
DIGEST_FILE: Final = "initdata.digest"

WRITE_FILES: Final = (
    "aa.toml",
    "cdh.toml",
    "apf.json",
    "auth.json",
    INIT_DATA_FILE,
    "scratch-space.marker",
)
"""Files of `DIRECTORY` that `write_files` may name."""

INIT_DATA_FILES: Final = ("aa.toml", "cdh.toml", "policy.rego")
"""Files that init data may hold."""

MEASURED_FILES: Final = ("aa.toml", "cdh.toml")
"""Files that real init data alone decides: the host must not choose the KBS behind its digest."""

NO_INIT_DATA: Final = (
    b"algorithm = \"sha256\"\nversion = \"0.1.0\"\n\n[data]\n\"aa.toml\" = '''\n'''"
)
"""The document of a pod VM that was given none; its empty `aa.toml` starts the services."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is to be done.

    Attributes:
        files: names in `DIRECTORY` to contents, in the order of writing, the digest last.
        unwanted: names that must not be there, whoever left them.
        skipped: paths of `write_files` that are not allowed, in their order.
        unmeasured: names that `write_files` had and the init data has not, left out.
        foreign: keys of the init data that name no file of ours.
        digest: of the init data.
        has_init_data: whether the document is anything but the one made here.
    """

    files: Mapping[str, bytes] = field(repr=False)
    unwanted: tuple[str, ...]
    skipped: tuple[str, ...]
    unmeasured: tuple[str, ...]
    foreign: tuple[str, ...]
    digest: Digest
    has_init_data: bool


def make_plan(
    user_files: Sequence[UserFile], init_data: bytes | None, *, measured_only: bool = True
) -> Plan:
    """Decide.

    Args:
        user_files: of the cloud; a later one replaces an earlier one of the same path.
        init_data: what `initdata` in `DIRECTORY` holds already, None when it is not there.
        measured_only: with real init data, `MEASURED_FILES` come from it or not at all.

    Raises:
        DecodeError: the init data is none, or two of its keys mean one file.
    """
    given, skipped = _allowed(user_files)
    packed = given.get(INIT_DATA_FILE, init_data)
    if packed is None:
        packed = given[INIT_DATA_FILE] = pack(NO_INIT_DATA).encode()
    document = decode_init_data(packed)
    held, foreign = _held(document)
    has_init_data = document.content != NO_INIT_DATA
    unmeasured: tuple[str, ...] = ()
    unwanted: tuple[str, ...] = ()
    if has_init_data and measured_only:
        unwanted = tuple(name for name in MEASURED_FILES if name not in held)
        unmeasured = tuple(name for name in given if name in unwanted)
    files = {name: content for name, content in (given | held).items() if name not in unwanted}
    files[DIGEST_FILE] = document.digest().hex.encode()
    return Plan(
        files=files,
        unwanted=unwanted,
        skipped=skipped,
        unmeasured=unmeasured,
        foreign=foreign,
        digest=document.digest(),
        has_init_data=has_init_data,
    )


def decode_init_data(packed: bytes) -> InitData:
    """The document of a text form.

    Raises:
        DecodeError: not such a form, or its algorithm is none of SHA-256, SHA-384, SHA-512.
    """
    document = InitData.parse(unpack(packed))
    if document.algorithm not in ALGORITHMS:
        raise DecodeError(f"init data has algorithm {document.algorithm}, expected a SHA-2")
    return document


def _allowed(user_files: Sequence[UserFile]) -> tuple[dict[str, bytes], tuple[str, ...]]:
    """Names to contents, and the paths that are not allowed; the comparison is exact."""
    names = {f"{DIRECTORY}/{name}": name for name in WRITE_FILES}
    given: dict[str, bytes] = {}
    skipped: list[str] = []
    for file in user_files:
        if file.path in names:
            given[names[file.path]] = file.content.encode("utf-8")
        else:
            skipped.append(file.path)
    return given, tuple(skipped)


def _held(document: InitData) -> tuple[dict[str, bytes], tuple[str, ...]]:
    """Names to contents, and the keys that name no file of ours."""
    held: dict[str, bytes] = {}
    foreign: list[str] = []
    for key, content in document.data.items():
        name = _cleaned(key)
        if name not in INIT_DATA_FILES:
            foreign.append(key)
        elif name in held:
            raise DecodeError(f"init data has {name} twice")
        else:
            held[name] = content.encode("utf-8")
    return held, tuple(foreign)


def _cleaned(key: str) -> str | None:
    """The path below `DIRECTORY` that a key means; None for one outside."""
    parts = DIRECTORY.split("/")[1:]
    base = list(parts)
    for segment in key.split("/"):
        if segment == "..":
            del parts[-1:]
        elif segment not in {"", "."}:
            parts.append(segment)
    return "/".join(parts[len(base) :]) if parts[: len(base)] == base else None
