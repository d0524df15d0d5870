"""Bytes that must not be printed, compared in variable time or left behind. Sans-I/O."""

import hmac
from types import TracebackType
from typing import NoReturn, Self


class Secret:
    """Key, plaintext, token or password, from the moment it exists.

    `with secret:` wipes it at the end of the block, as far as Python can: copies that a library
    made are out of reach. A wiped secret cannot be revealed any more.
    """

    __slots__ = ("_bytes", "_wiped")
    __hash__ = None  # type: ignore[assignment]  # equal secrets must not end up in a dict by chance

    def __init__(self, value: bytes | bytearray | memoryview) -> None:
        """Take a copy of `value`; a `bytearray` that the caller owns is for the caller to wipe."""
        self._bytes = bytearray(value)
        self._wiped = False

    def reveal(self) -> bytes:
        """The bytes, for the call that needs them; never bind the result to a name.

        Raises:
            ValueError: the secret was wiped; a bug of the caller.
        """
        if self._wiped:
            raise ValueError("secret was wiped")
        return bytes(self._bytes)

    def wipe(self) -> None:
        """Overwrite the bytes with zeros; may be called again."""
        self._bytes[:] = bytes(len(self._bytes))  # of the same length: written in place
        self._wiped = True

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.wipe()

    def __len__(self) -> int:
        return len(self._bytes)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Secret):
            return NotImplemented
        return hmac.compare_digest(self._bytes, other._bytes)

    def __repr__(self) -> str:
        return f"<Secret of {len(self._bytes)} bytes>"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a secret cannot be pickled or copied")
