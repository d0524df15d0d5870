"""The coercions of a configuration tree, before `msgspec` checks its types. Sans-I/O.

A string is taken for a number or a truth value, a number or a truth value for a string, and null
for an optional key that is not there. Nothing else: what these do not cover stays as it is, and
`msgspec` refuses it.

Source: docs/spec/attestation-agent.md 2.2, docs/spec/confidential-data-hub.md 2.1.
"""

import re
import types
import typing
from collections.abc import Mapping
from typing import Final

import msgspec

TRUE_WORDS: Final = ("1", "true", "on", "yes")
FALSE_WORDS: Final = ("0", "false", "off", "no")

_INTEGER: Final = re.compile(r"[+-]?[0-9]{1,20}", re.ASCII)
_NUMBER: Final = re.compile(r"[+-]?[0-9]+(\.[0-9]+)?([eE][+-]?[0-9]{1,3})?", re.ASCII)


def field_kinds(kind: type) -> Mapping[str, object]:
    """The keys of a Struct as they are spelled in a file, with their annotations."""
    assert issubclass(kind, msgspec.Struct)
    hints = typing.get_type_hints(kind)
    names = zip(kind.__struct_encode_fields__, kind.__struct_fields__, strict=True)
    return {key: hints[field] for key, field in names}


class Reading:
    """One walk over one tree, and what it met.

    Attributes:
        unknown: dotted paths of keys that no field has, each with the Struct it stood in.
        missing: dotted paths of required keys that are not there.
    """

    def __init__(self) -> None:
        self.unknown: list[tuple[str, type]] = []
        self.missing: list[str] = []

    def coerce(self, value: object, kind: object, path: str = "") -> object:
        """The value as `kind` wants it, where a coercion is specified; else as it is."""
        arms = _arms(kind)
        if len(arms) > 1:
            inner = [arm for arm in arms if arm is not types.NoneType]
            if value is None or len(inner) != 1:
                return value
            return self.coerce(value, inner[0], path)
        if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
            return self._table(value, kind, path) if isinstance(value, dict) else value
        origin = typing.get_origin(kind)
        if origin in (tuple, list) and isinstance(value, list):
            item = typing.get_args(kind)[0]
            return [self.coerce(v, item, f"{path}[{i}]") for i, v in enumerate(value)]
        if origin in (dict, Mapping) and isinstance(value, dict):
            item = typing.get_args(kind)[1]
            return {k: self.coerce(v, item, _join(path, str(k))) for k, v in value.items()}
        return _coerce_leaf(value, kind)

    def _table(
        self, table: dict[str, object], kind: type[msgspec.Struct], path: str
    ) -> dict[str, object]:
        kinds = field_kinds(kind)
        coerced: dict[str, object] = {}
        for key, value in table.items():
            where = _join(path, str(key))
            if key not in kinds:
                self.unknown.append((where, kind))
            elif value is not None:
                coerced[key] = self.coerce(value, kinds[key], where)
        required = {field.encode_name for field in msgspec.structs.fields(kind) if field.required}
        self.missing += [_join(path, key) for key in kinds if key in required - set(coerced)]
        return coerced


def _join(path: str, key: str) -> str:
    return f"{path}.{key}" if path else key


def _arms(kind: object) -> tuple[object, ...]:
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        return typing.get_args(kind)
    return (kind,)


def _coerce_leaf(value: object, kind: object) -> object:
    if kind is bool and isinstance(value, str):
        word = value.lower()
        if word in TRUE_WORDS:
            return True
        return False if word in FALSE_WORDS else value
    if kind is int and isinstance(value, str) and _INTEGER.fullmatch(value):
        return int(value)
    if kind is float and isinstance(value, str) and _NUMBER.fullmatch(value):
        return float(value)
    if isinstance(kind, type) and issubclass(kind, str):
        if isinstance(value, bool):
            return "true" if value else "false"
        if isinstance(value, int | float):
            return str(value)
    return value
