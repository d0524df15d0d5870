"""What passes the strict check is JSON for the standard library and for msgspec too."""

import json
from contextlib import suppress

from guest import jsonio
from guest.errors import DecodeError

SEEDS = (
    b'{"a":[1,-2.5e3,"\\u00e4\\"[",null,true],"b":{"c":{}}}',
    b"77777777777777777.7777",
    b"[[[[]]]]",
    b'"\xc3\xa4"',
)


def one_input(data: bytes) -> None:
    """Check; where that passes, decode and canonicalise."""
    try:
        jsonio.check(data, max_depth=16)
    except DecodeError:
        return
    with suppress(ValueError):  # more than 4300 digits
        value = json.loads(data)
        with suppress(DecodeError):
            canonical = jsonio.canonical(value)  # a long float is written without a point
            assert json.loads(canonical, parse_int=float) == value
    with suppress(DecodeError):
        jsonio.decode(data, object, max_depth=16)
