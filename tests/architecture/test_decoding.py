"""Nothing is decoded into a type that `msgspec` has not been made to know first."""

import ast
import re
from typing import Final

from support.source_tree import PRODUCT, ROOT, SIMULATOR, modules, parse

TYPED: Final = re.compile(r"msgspec\.(convert|(json|msgpack|toml|yaml)\.(decode|Decoder))")


def _kind(call: ast.Call) -> ast.expr | None:
    """What a call of `msgspec` decodes into; None where it is no such call or has no type."""
    name = ast.unparse(call.func)
    if not TYPED.fullmatch(name):
        return None
    position = 0 if name.endswith("Decoder") else 1
    named = [word.value for word in call.keywords if word.arg == "type"]
    return next(iter([*named, *call.args[position : position + 1]]), None)


def test_every_type_is_prepared_before_something_is_decoded_into_it() -> None:
    paths = [module.path for module in modules(*PRODUCT, SIMULATOR)]
    paths += sorted((ROOT / "podvm-image" / "podvm").rglob("*.py"))
    found = [
        (f"{path.relative_to(ROOT)}:{kind.lineno}", ast.unparse(kind))
        for path in paths
        if path.name != "prepared.py"
        for node in ast.walk(parse(path))
        if isinstance(node, ast.Call) and (kind := _kind(node)) is not None
    ]
    assert len(found) > 10
    assert [each for each in found if not each[1].startswith("prepared(")] == []
