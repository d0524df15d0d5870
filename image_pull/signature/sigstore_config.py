"""Where simple signing's signatures lie: the lookaside configuration. Sans-I/O.

Source: docs/spec/image-pull.md 9.5; containers-registries.d(5).
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from guest.errors import DecodeError
from image_pull.reference import ImageReference
from image_pull.signature.policy import scopes_of

MAX_CONFIG: Final = 256 * 1024
"""Most bytes of one file; PyYAML takes about a second for them."""

SCHEMES: Final = ("file:///", "http://", "https://")
LOOKASIDE: Final = ("lookaside", "sigstore")
"""Members that hold the address, in the order in which they count."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SigstoreConfig:
    """One file, or several merged.

    Attributes:
        default: address for images that no scope is for, or None.
        scopes: namespace to address; addresses have no slash at the end.
    """

    default: str | None
    scopes: Mapping[str, str]

    @classmethod
    def parse(cls, data: bytes) -> "SigstoreConfig":
        """Parse YAML; members that say nothing of where to read are not looked at.

        Raises:
            DecodeError: not YAML, aliases, a key twice, an entry without an address, or an
                address that is neither file nor http nor https.
        """
        document = _mapping(_compose(data), "configuration")
        default = document.get("default-docker")
        docker = document.get("docker")
        scopes = {} if docker is None else _mapping(docker, "docker")
        return cls(
            default=None if default is None else _address(default, "default-docker"),
            scopes=MappingProxyType(
                {name: _address(entry, name[:200]) for name, entry in scopes.items()}
            ),
        )

    def merged(self, other: "SigstoreConfig") -> "SigstoreConfig":
        """Both together.

        Raises:
            DecodeError: they name different addresses for one thing.
        """
        pairs = [(name, other.scopes[name]) for name in self.scopes if name in other.scopes]
        wrong = [name for name, address in pairs if self.scopes[name] != address]
        if self.default is not None and other.default not in (None, self.default):
            wrong.append("default-docker")
        if wrong:
            raise DecodeError(f"two addresses for {min(wrong)[:200]}")
        return SigstoreConfig(
            default=self.default or other.default,
            scopes=MappingProxyType({**self.scopes, **other.scopes}),
        )

    def base_of(self, reference: ImageReference) -> str | None:
        """The address for an image, the most specific one; None if there is none."""
        for scope in scopes_of(reference):
            if scope and scope in self.scopes:
                return self.scopes[scope]
        return self.default


def _address(value: object, where: str) -> str:
    entry = _mapping(value, where)
    address = next((entry[each] for each in LOOKASIDE if entry.get(each) is not None), None)
    if not isinstance(address, str):
        raise DecodeError(f"{where} has no lookaside address")
    if not address.startswith(SCHEMES) or not address.isprintable() or " " in address:
        raise DecodeError(f"lookaside address of {where} is no file, http or https URL")
    if not address.startswith("file:") and ("?" in address or "#" in address):
        raise DecodeError(f"lookaside address of {where} has a query")
    return address.removesuffix("/")


def _mapping(value: object, where: str) -> Mapping[str, object]:
    """The entries of a mapping node, each key a text that occurs once."""
    import yaml

    if not isinstance(value, yaml.MappingNode):
        raise DecodeError(f"{where} is not a mapping")
    found: dict[str, object] = {}
    for key, node in value.value:
        if not isinstance(key, yaml.ScalarNode) or key.value in found:
            raise DecodeError(f"{where} has a key that is no text, or one twice")
        is_scalar = isinstance(node, yaml.ScalarNode)
        if is_scalar and node.tag == "tag:yaml.org,2002:null":
            found[key.value] = None
        else:
            is_text = is_scalar and node.tag == "tag:yaml.org,2002:str"
            found[key.value] = node.value if is_text else node
    return found


def _compose(data: bytes) -> object:
    """The document's node tree; nothing is made of it, whatever its tags say."""
    import yaml

    if len(data) > MAX_CONFIG:
        raise DecodeError(f"configuration has {len(data)} bytes, at most {MAX_CONFIG}")
    try:
        root = yaml.compose(data.decode("utf-8"), Loader=yaml.SafeLoader)
        _refuse_aliases(root)
    except (yaml.YAMLError, UnicodeDecodeError, ValueError, RecursionError) as error:
        raise DecodeError("configuration is not YAML") from error
    return yaml.MappingNode("tag:yaml.org,2002:map", []) if root is None else root


def _refuse_aliases(root: object) -> None:
    seen: set[int] = set()
    for node in _nodes(root):
        if id(node) in seen:
            raise DecodeError("configuration has aliases, which are not supported")
        seen.add(id(node))


def _nodes(root: object) -> Iterator[object]:
    """All nodes; of one that is met again, no more than itself."""
    import yaml

    waiting, known = [root], set()
    while waiting:
        node = waiting.pop()
        yield node
        if id(node) in known:
            continue
        known.add(id(node))
        if isinstance(node, yaml.MappingNode):
            waiting += [each for pair in node.value for each in pair]
        elif isinstance(node, yaml.SequenceNode):
            waiting += node.value
