"""The cloud-config document that a pod VM gets as user data. Sans-I/O.

YAML is read event by event into the one shape that is allowed; aliases, tags and deeper nesting
never become objects.

Source: docs/spec/podvm-image.md 5.3, 5.7 and 18.7.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final

from guest.errors import DecodeError
from guest.wire import decode_base64, decode_utf8

MAX_USER_DATA: Final = 1024 * 1024
"""Bytes of the longest document, and of the longest answer that carries one.

The largest that a cloud serves is 256 KiB; a disk may hold more.
"""

MAX_FILES: Final = 256
"""Entries of `write_files`."""

_DEPTH: Final = 3
_TEXT: Final = "tag:yaml.org,2002:str"
_NULL: Final = "tag:yaml.org,2002:null"


@dataclass(frozen=True, slots=True, kw_only=True)
class UserFile:
    """One entry of `write_files`.

    Attributes:
        path: as written.
        content: of the file to be; may be secret.
    """

    path: str
    content: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Scalar:
    """A text, number or alike, as written."""

    tag: str
    text: str
    line: int


@dataclass(frozen=True, slots=True)
class Mapping:
    """Keys and values, in their order."""

    members: tuple[tuple["Node", "Node"], ...]
    line: int


@dataclass(frozen=True, slots=True)
class Sequence:
    """Items, in their order."""

    items: tuple["Node", ...]
    line: int


Node = Scalar | Mapping | Sequence


def decode_encoded(body: bytes) -> bytes:
    """The document inside an answer of a cloud that serves base64; line ends are passed over.

    Raises:
        DecodeError: not standard, padded base64.
    """
    return decode_base64(body.translate(None, b"\r\n"), "user data")


def parse_user_data(content: bytes) -> tuple[UserFile, ...]:
    """The files of a document, in its order; an empty document has none.

    Raises:
        DecodeError: too long, not UTF-8, not YAML, more than one document, an unknown or
            duplicate key, a value of another type; names lines, never content.
    """
    if len(content) > MAX_USER_DATA:
        raise DecodeError(f"user data is longer than {MAX_USER_DATA} bytes")
    root = _read(decode_utf8(content, "user data"))
    if root is None or _is_null(root):
        return ()
    entries = _members(root, {"write_files"}).get("write_files")
    if entries is None or _is_null(entries):
        return ()
    if not isinstance(entries, Sequence):
        raise _refusal(entries.line, "write_files is not a list")
    return tuple(_file(entry) for entry in entries.items)


def _file(entry: Node) -> UserFile:
    members = _members(entry, {"path", "content"})
    if "path" not in members:
        raise _refusal(entry.line, "a file has no path")
    content = members.get("content")
    # Compat: cloud-api-adaptor's marker files have no content, or an empty one, which is null
    is_empty = content is None or _is_null(content)
    text = "" if content is None or is_empty else _text(content)
    return UserFile(path=_text(members["path"]), content=text)


def _members(node: Node, known: set[str]) -> dict[str, Node]:
    if not isinstance(node, Mapping):
        raise _refusal(node.line, "not a mapping")
    members: dict[str, Node] = {}
    for key, value in node.members:
        name = _text(key)
        if name not in known:
            raise _refusal(key.line, f"unknown key {name[:40]!r}")
        if name in members:
            raise _refusal(key.line, f"duplicate key {name!r}")
        members[name] = value
    return members


def _text(node: Node) -> str:
    if not isinstance(node, Scalar) or node.tag != _TEXT:
        raise _refusal(node.line, "not a text")
    return node.text


def _is_null(node: Node) -> bool:
    return isinstance(node, Scalar) and node.tag == _NULL


def _refusal(line: int, why: str) -> DecodeError:
    return DecodeError(f"user data, line {line}: {why}")


def _read(text: str) -> Node | None:
    """The one document, or None when there is none."""
    import yaml

    try:
        events = iter(yaml.parse(text, Loader=yaml.SafeLoader))
        root = None
        for event in events:
            if isinstance(event, yaml.DocumentStartEvent):
                if root is not None:
                    raise _refusal(_line(event), "a second document")
                root = _node(next(events), events, yaml.resolver.Resolver(), _DEPTH)
        return root
    except yaml.MarkedYAMLError as error:
        # not `from error`: its text quotes the document, which may be secret
        line = error.problem_mark.line + 1 if error.problem_mark is not None else 1
        raise _refusal(line, "not YAML") from None
    except (yaml.YAMLError, ValueError):
        raise DecodeError("user data is not YAML") from None


def _node(event: Any, events: Iterator[Any], resolver: Any, depth: int) -> Node:
    """The node that begins with this event."""
    import yaml

    line = _line(event)
    if isinstance(event, yaml.AliasEvent) or event.anchor is not None:
        raise _refusal(line, "anchors and aliases are not taken")
    if isinstance(event, yaml.ScalarEvent):
        return Scalar(_tag(event, resolver), event.value, line)
    if event.tag is not None:
        raise _refusal(line, "tags are not taken")
    if depth == 0:
        raise _refusal(line, "nested too deep")
    children: list[Node] = []
    for child in events:
        if isinstance(child, yaml.CollectionEndEvent):
            break
        if len(children) == MAX_FILES:
            raise _refusal(_line(child), f"more than {MAX_FILES} entries")
        children.append(_node(child, events, resolver, depth - 1))
    if isinstance(event, yaml.SequenceStartEvent):
        return Sequence(tuple(children), line)
    return Mapping(tuple(zip(children[::2], children[1::2], strict=True)), line)


def _tag(event: Any, resolver: Any) -> str:
    import yaml

    if event.tag is not None:
        raise _refusal(_line(event), "tags are not taken")
    tag: str = resolver.resolve(yaml.ScalarNode, event.value, event.implicit)
    return tag


def _line(event: Any) -> int:
    line: int = event.start_mark.line
    return line + 1
