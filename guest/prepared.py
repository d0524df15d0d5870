"""Types made ready for `msgspec`, by one thread at a time.

`msgspec` (0.22.0) learns a type's fields when it first decodes into it. Annotations are evaluated
meanwhile, by Python, so another thread may run, finds the type half known, and the process ends
with SIGSEGV. Every `decode` and `convert` into a type goes through here. What is known is kept for
the process, as `msgspec` keeps it.
"""

import threading
from typing import Any, Final, TypeVar

import msgspec

T = TypeVar("T")

_lock: Final = threading.Lock()
_known: Final[set[Any]] = set()


def prepared(kind: type[T]) -> type[T]:
    """The same type, all of whose fields, and theirs, `msgspec` knows.

    Args:
        kind: what is to be decoded into: a `Struct`, or a form such as `dict[str, SomeStruct]`.

    Raises:
        TypeError: `msgspec` cannot decode into it.
    """
    if kind not in _known:
        with _lock:
            msgspec.json.Decoder(kind)
            _known.add(kind)
    return kind
