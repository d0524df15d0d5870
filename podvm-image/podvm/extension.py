"""The manifest of an extension image: its files, and how its programs are launched. Sans-I/O.

Source: docs/spec/podvm-image.md 13.2 and 12.3.
"""

import json
import tomllib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Final

import msgspec

from guest.prepared import prepared
from podvm.errors import ImageError

FILE: Final = "etc/kata-extensions/components.toml"
"""Where the manifest lies below the extension's root."""

SCHEMA_VERSION: Final = 1
MAX_LENGTH: Final = 256 * 1024
"""Longest manifest that is read, in characters."""

DEFAULT_VARIANT: Final = "default"

VARIABLES: Final = frozenset(
    (
        "aa_attestation_socket",
        "aa_attestation_uri",
        "aa_config_path",
        "attester_variant",
        "cdh_config_path",
        "cdh_socket",
        "extension_root",
        "initdata_toml_path",
        "launch_process_timeout",
        "ocicrypt_config_path",
        "rest_api_features",
    )
)
"""What may stand in `${...}`, and nothing else."""

Level = Annotated[int, msgspec.Meta(ge=0, le=255)]


class OptionalArguments(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Arguments that are passed where a variable is not empty.

    Attributes:
        when: the variable's name.
        args: the arguments.
    """

    when: str
    args: tuple[str, ...]


class Variant(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One build of a program.

    Attributes:
        path: of the program, below the extension's root.
        args: appended to the process's.
        env: over the process's.
    """

    path: str
    args: tuple[str, ...] = ()
    env: dict[str, str] = {}


class Process(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One program to launch.

    Attributes:
        id: its name.
        level: the lowest level that launches it: 1 AA, 2 CDH, 3 REST; 0 is never launched.
        path: of the program below the extension's root; either this or `variants`.
        variants: builds of the program by name.
        select: the variant's name; empty is `default`.
        args: its arguments.
        optional_args: more of them, in order.
        config: a file that is passed with `-c` where it exists.
        env: variables on top of the inherited ones.
        wait_socket: a file that must appear before the next program; empty waits for nothing.
        timeout_secs: how long, as text: a variable may stand for it.
    """

    id: str
    level: Level
    path: str | None = None
    variants: dict[str, Variant] = {}
    select: str = ""
    args: tuple[str, ...] = ()
    optional_args: tuple[OptionalArguments, ...] = ()
    config: str = ""
    env: dict[str, str] = {}
    wait_socket: str = ""
    timeout_secs: str = "0"


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """What is run, every variable replaced.

    Attributes:
        id: of the process.
        path: of the program, absolute.
        args: after the program's name.
        env: on top of the inherited environment, sorted by name.
        wait_socket: empty for none.
        timeout: seconds until it must be there.
    """

    id: str
    path: str
    args: tuple[str, ...]
    env: tuple[tuple[str, str], ...]
    wait_socket: str
    timeout: int


class Manifest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The document.

    Attributes:
        schema_version: `SCHEMA_VERSION`.
        paths: files of the extension by what they are for.
        process: the programs in the order of their launch.
    """

    schema_version: int
    paths: dict[str, str] = {}
    process: tuple[Process, ...] = ()

    def encode(self) -> str:
        """The text of the file.

        Raises:
            ImageError: `decode` would refuse it.
        """
        _verify(self)
        lines = [f"schema_version = {self.schema_version}"]
        lines += _table("paths", self.paths)
        for process in self.process:
            lines += _process_lines(process)
        return "\n".join(lines) + "\n"

    def find_path(self, name: str, root: str) -> str:
        """Where the file for a purpose is, absolute.

        Raises:
            ImageError: the extension has none.
        """
        if name not in self.paths:
            raise ImageError(f"the extension at {root} has no path {name!r}")
        return _below(root, self.paths[name])

    def launches(
        self, level: int, variables: Mapping[str, str], exists: Callable[[str], bool]
    ) -> tuple[Launch, ...]:
        """What is launched up to a level, in order.

        Args:
            level: the highest that is asked for; 0 launches nothing.
            variables: a value for each of `VARIABLES`.
            exists: whether a file is there.

        Raises:
            ImageError: a variable has no value, a variant is not there, a timeout is no number.
        """
        return tuple(
            _launch(process, variables, exists)
            for process in self.process
            if 0 < process.level <= level
        )


def decode(text: str, path: str = FILE) -> Manifest:
    """Parse a manifest strictly: no unknown key, no unknown variable, no way out of the root.

    Args:
        text: of the file.
        path: of the file, for messages.

    Raises:
        ImageError: it is not as specified.
    """
    if len(text) > MAX_LENGTH:
        raise ImageError(f"extension manifest {path} is longer than {MAX_LENGTH} characters")
    try:
        document = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise ImageError(f"extension manifest {path} is no TOML: {error}") from error
    version = document.get("schema_version")
    if version is not None and (version != SCHEMA_VERSION or isinstance(version, bool | float)):
        raise ImageError(f"unsupported extension manifest schema_version {version} in {path}")
    try:
        manifest = msgspec.convert(document, prepared(Manifest))
        _verify(manifest)
    except (msgspec.ValidationError, ImageError) as error:
        raise ImageError(f"extension manifest {path}: {error}") from error
    return manifest


def _verify(manifest: Manifest) -> None:
    if manifest.schema_version != SCHEMA_VERSION:
        raise ImageError(f"unsupported extension manifest schema_version {manifest.schema_version}")
    for path in manifest.paths.values():
        _below("/", path)
    names = [process.id for process in manifest.process]
    if "" in names or len(set(names)) != len(names):
        raise ImageError("processes need ids, each its own")
    nothing = dict.fromkeys(VARIABLES, "")
    for process in manifest.process:
        if (process.path is None) == (not process.variants):
            raise ImageError(f"process '{process.id}' needs either path or variants")
        paths = [variant.path for variant in process.variants.values()]
        for path in [*paths, process.path if process.path is not None else paths[0]]:
            _below("/", path)
        for text in _texts(process):
            substitute(text, nothing)
        for name in _variables(process):
            if "=" in name or "\0" in name or not name:
                raise ImageError(f"process '{process.id}': {name!r} names no variable")
        for optional in process.optional_args:
            substitute(f"${{{optional.when}}}", nothing)


def _variables(process: Process) -> Iterator[str]:
    yield from process.env
    for variant in process.variants.values():
        yield from variant.env


def _texts(process: Process) -> Iterator[str]:
    """All that variables may stand in."""
    yield from (process.select, process.config, process.wait_socket, process.timeout_secs)
    yield from process.args
    yield from process.env.values()
    for optional in process.optional_args:
        yield from optional.args
    for variant in process.variants.values():
        yield from variant.args
        yield from variant.env.values()


def substitute(text: str, variables: Mapping[str, str]) -> str:
    """Replace each `${name}`; what a value holds is not looked at again.

    Raises:
        ImageError: a variable is not one of `VARIABLES` or has no value, or `}` is missing.
    """
    done: list[str] = []
    while True:
        before, mark, rest = text.partition("${")
        done.append(before)
        if not mark:
            return "".join(done)
        name, end, text = rest.partition("}")
        if not end:
            raise ImageError(f"unterminated variable in {mark}{rest[:80]!r}")
        if name not in VARIABLES or name not in variables:
            raise ImageError(f"unknown variable {name[:80]!r}")
        done.append(variables[name])


def _below(root: str, path: str) -> str:
    """The path below the root; a leading slash means the root."""
    parts = [part for part in path.split("/") if part not in ("", ".")]
    if not parts or ".." in parts or "\0" in path:
        raise ImageError(f"path {path[:200]!r} leads nowhere below the extension's root")
    return f"{root.rstrip('/')}/{'/'.join(parts)}"


def _launch(
    process: Process, variables: Mapping[str, str], exists: Callable[[str], bool]
) -> Launch:
    def text(value: str) -> str:
        return substitute(value, variables)

    path, args, env = process.path, process.args, dict(process.env)
    if path is None:
        name = text(process.select) or DEFAULT_VARIANT
        variant = process.variants.get(name)
        if variant is None:
            known = ", ".join(sorted(process.variants))
            raise ImageError(f"process '{process.id}' has no variant '{name}' (available: {known})")
        path, args, env = variant.path, (*args, *variant.args), {**env, **variant.env}
    for optional in process.optional_args:
        if text(f"${{{optional.when}}}"):
            args = (*args, *optional.args)
    words = [text(arg) for arg in args]
    config = text(process.config)
    if config and exists(config):
        words += ["-c", config]
    timeout = text(process.timeout_secs)
    if not (timeout.isascii() and timeout.isdigit() and len(timeout) < 10):
        raise ImageError(f"process '{process.id}': timeout_secs {timeout[:80]!r} is no number")
    return Launch(
        id=process.id,
        path=_below(text("${extension_root}"), path),
        args=tuple(words),
        env=tuple(sorted((name, text(value)) for name, value in env.items())),
        wait_socket=text(process.wait_socket),
        timeout=int(timeout),
    )


def _string(text: str) -> str:
    """A TOML basic string; JSON's escapes are among its own, but for DEL."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def _strings(texts: tuple[str, ...]) -> str:
    return f"[{', '.join(_string(text) for text in texts)}]"


def _table(name: str, values: Mapping[str, str]) -> list[str]:
    rows = [f"{_string(key)} = {_string(value)}" for key, value in values.items()]
    return ["", f"[{name}]", *rows] if rows else []


def _process_lines(process: Process) -> list[str]:
    lines = ["", "[[process]]", f"id = {_string(process.id)}", f"level = {process.level}"]
    if process.path is not None:
        lines.append(f"path = {_string(process.path)}")
    lines += [f"args = {_strings(process.args)}"] if process.args else []
    if process.optional_args:
        items = (
            f"{{ when = {_string(optional.when)}, args = {_strings(optional.args)} }}"
            for optional in process.optional_args
        )
        lines.append(f"optional_args = [{', '.join(items)}]")
    for key, value in (
        ("select", process.select),
        ("config", process.config),
        ("wait_socket", process.wait_socket),
    ):
        lines += [f"{key} = {_string(value)}"] if value else []
    lines.append(f"timeout_secs = {_string(process.timeout_secs)}")
    lines += _table("process.env", process.env)
    for name, variant in process.variants.items():
        table = f"process.variants.{_string(name)}"
        lines += ["", f"[{table}]", f"path = {_string(variant.path)}"]
        lines += [f"args = {_strings(variant.args)}"] if variant.args else []
        lines += _table(f"{table}.env", variant.env)
    return lines
