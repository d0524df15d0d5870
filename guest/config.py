"""Configuration files: TOML, JSON or YAML text into a frozen `msgspec.Struct` tree.

Source: docs/spec/attestation-agent.md 2.1 and 2.2, docs/spec/confidential-data-hub.md 2.1.
"""

import logging
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final, TypeVar

import msgspec

from guest.config_tree import Reading, field_kinds
from guest.errors import ConfigError, DecodeError
from guest.prepared import prepared

log = logging.getLogger(__name__)

T = TypeVar("T", bound=msgspec.Struct)

MAX_FILE_BYTES: Final = 4 * 1024 * 1024
"""Longest configuration file, in bytes."""

MAX_COMMAND_LINE_BYTES: Final = 1024 * 1024
"""Longest kernel command line that is read, in bytes."""

MAX_UNKNOWN: Final = 20
"""Unknown keys that are warned of one by one; the file may be a host's init data."""

EXTENSIONS: Final = ("toml", "json", "yaml", "yml")
"""Formats by extension, in the order in which they are appended to a name that does not exist."""


class RpcConfig(msgspec.Struct, frozen=True, kw_only=True):
    """The `[rpc]` table of a daemon's configuration.

    Attributes:
        exact_status: failures carry their exact status on the wire instead of INTERNAL.
    """

    exact_status: bool = False


_AT_PATH: Final = re.compile(r"^(?P<what>.*?)(?: - at `\$\.?(?P<path>[^`]*)`)?$", re.DOTALL)
_TOML_KEY: Final = re.compile(r"\s*([a-z][a-z0-9_.-]{0,60})\s*=", re.ASCII)
"""Ours are lower case; anything else before an `=` may be a piece of somebody's secret."""

_TOML_LINE: Final = re.compile(r"\(at line (?P<line>[0-9]+), column [0-9]+\)")


def read_config(path: str | Path, kind: type[T], *, strict: bool = False) -> T:
    """Read the file once and decode it.

    Args:
        path: a file, or a name to which an extension of `EXTENSIONS` is appended.
        kind: the frozen `msgspec.Struct` to decode into.
        strict: refuse unknown keys instead of one warning for each.

    Raises:
        ConfigError: missing, unreadable, malformed; names the file and the line or dotted key.
    """
    found, content = _read(Path(path))
    return decode_config(content, found, kind, strict=strict)


def decode_config(content: bytes, name: str | Path, kind: type[T], *, strict: bool = False) -> T:
    """Decode the content of a configuration file; `name` gives the format and stands in errors.

    Raises:
        ConfigError: malformed, a wrong type, a missing key, or an unknown one when `strict`.
    """
    if len(content) > MAX_FILE_BYTES:
        raise ConfigError(f"{name}: longer than {MAX_FILE_BYTES} bytes")
    tree = _parse(content, str(name))
    reading = Reading()
    try:
        coerced = reading.coerce(tree, kind)
        if reading.missing:
            raise ConfigError(f'{name}: missing configuration field "{reading.missing[0]}"')
        _report_unknown(reading.unknown, str(name), strict=strict)
        return msgspec.convert(coerced, prepared(kind), dec_hook=_decode_leaf)
    except RecursionError:
        raise ConfigError(f"{name}: nested too deeply") from None
    except msgspec.ValidationError as error:
        raise ConfigError(f"{name}: {_validation_text(str(error))}") from None


def default_config(kind: type[T]) -> T:
    """What an empty file would give."""
    return msgspec.convert({}, prepared(kind))


def read_kernel_command_line(path: str | Path = "/proc/cmdline") -> str:
    """The kernel's command line; empty where there is none.

    Raises:
        ConfigError: it exists and cannot be read.
    """
    try:
        with open(path, "rb") as file:
            return file.read(MAX_COMMAND_LINE_BYTES).decode("utf-8", "replace")
    except (FileNotFoundError, NotADirectoryError):
        return ""
    except OSError as error:
        raise ConfigError(f"read kernel cmdline failed: {path}: {error.strerror}") from error


def _read(path: Path) -> tuple[Path, bytes]:
    candidates = [path, *(path.with_name(f"{path.name}.{end}") for end in EXTENSIONS)]
    for candidate in candidates:
        try:
            with open(candidate, "rb") as file:
                return candidate, file.read(MAX_FILE_BYTES + 1)
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            continue
        except OSError as error:
            raise ConfigError(f"{candidate}: cannot be read: {error.strerror}") from error
    raise ConfigError(f'configuration file "{path}" not found')


def _parse(content: bytes, name: str) -> dict[str, object]:
    try:
        text = content.decode("utf-8").removeprefix("\N{BOM}")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ConfigError(f"{name}: line {line}: not UTF-8") from None
    extension = name.rpartition(".")[2]
    if extension not in EXTENSIONS:
        extension = "json" if text.lstrip().startswith("{") else "toml"
    parsers: Mapping[str, Callable[[str], object]] = {
        "json": _parse_json,
        "toml": _parse_toml,
        "yaml": _parse_yaml,
        "yml": _parse_yaml,
    }
    try:
        tree = parsers[extension](text)
    except DecodeError as error:
        raise ConfigError(f"{name}: {error}") from None
    except RecursionError:
        raise ConfigError(f"{name}: nested too deeply") from None
    if not isinstance(tree, dict):
        raise ConfigError(f"{name}: line 1: not a table of keys")
    return tree


def _parse_toml(text: str) -> object:
    import tomllib

    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        lines = text.splitlines() or [""]
        match = _TOML_LINE.search(str(error))
        line = int(match["line"]) if match else len(lines)
        what = _TOML_LINE.sub("", str(error)).strip()
        shown = lines[min(line, len(lines)) - 1]
        before = "\n".join(lines[: line - 1])
        is_inside = any(before.count(quotes) % 2 for quotes in ("'''", '"""'))
        key = _TOML_KEY.match(shown)
        # Inside a text of several lines, what looks like a key is part of a value.
        near = f", key {key[1]}" if key and not is_inside else ""
        raise DecodeError(f"line {line}{near}: {what}") from None


def _parse_json(text: str) -> object:
    import json

    def unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
        members = dict(pairs)
        if len(members) != len(pairs):
            names = [name for name, _ in pairs]
            twice = next(name for name in names if names.count(name) > 1)
            raise DecodeError(f"key {twice[:80]} is given twice")
        return members

    def constant(word: str) -> object:
        raise DecodeError(f"{word} is not JSON")

    if not text.strip():
        return {}
    try:
        return json.loads(text, object_pairs_hook=unique, parse_constant=constant)
    except json.JSONDecodeError as error:
        raise DecodeError(f"line {error.lineno}: {error.msg}") from None
    except ValueError:
        raise DecodeError("a number has too many digits") from None


def _parse_yaml(text: str) -> object:
    import yaml

    try:
        _refuse_yaml_surprises(yaml.compose(text, Loader=yaml.SafeLoader), set())
        tree: object = yaml.safe_load(text)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise DecodeError(f"line {line}: {error.problem}") from None
    except (yaml.YAMLError, ValueError) as error:
        raise DecodeError(f"not YAML: {' '.join(str(error).split())[:200]}") from None
    return {} if tree is None else tree


def _refuse_yaml_surprises(node: object, seen: set[int]) -> None:
    """No aliases (they multiply) and no key given twice (PyYAML takes the last in silence)."""
    import yaml

    if node is None:
        return
    assert isinstance(node, yaml.Node)
    line = node.start_mark.line + 1
    if id(node) in seen:
        raise DecodeError(f"line {line}: aliases are not supported")
    seen.add(id(node))
    children: list[yaml.Node] = []
    if isinstance(node, yaml.MappingNode):
        keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        for key in keys:
            if keys.count(key) > 1:
                raise DecodeError(f"line {line}: key {key[:80]} is given twice")
        children = [value for _, value in node.value]
    elif isinstance(node, yaml.SequenceNode):
        children = list(node.value)
    for child in children:
        _refuse_yaml_surprises(child, seen)


def _report_unknown(unknown: list[tuple[str, type]], name: str, *, strict: bool) -> None:
    for path, kind in unknown[:MAX_UNKNOWN]:
        near = _nearest(path, kind)
        if strict:
            hint = f"; nearest known is {near}" if near else ""
            raise ConfigError(f"{name}: {path}: unknown key{hint}")
        extra = {"file": name, "key": path} | ({"nearest": near} if near else {})
        log.warning("unknown configuration key is ignored", extra=extra)
    if len(unknown) > MAX_UNKNOWN:
        count = len(unknown) - MAX_UNKNOWN
        log.warning("more unknown keys are ignored", extra={"file": name, "count": count})


def _nearest(path: str, kind: type) -> str:
    import difflib

    parent, _, key = path.rpartition(".")
    near = difflib.get_close_matches(key, list(field_kinds(kind)), n=1, cutoff=0.6)
    return ".".join(part for part in (parent, *near) if part) if near else ""


def _validation_text(text: str) -> str:
    match = _AT_PATH.match(text)
    assert match is not None
    what = match["what"].replace("`", "")
    return f"{match['path']}: {what}" if match["path"] else what


def _decode_leaf(kind: type, value: object) -> object:
    if kind is Path and isinstance(value, str):
        return Path(value)
    raise NotImplementedError(f"a configuration cannot hold {kind}")
