"""How one requirement ends: one good signature is enough, else it says why none was. Sans-I/O."""

from typing import Final

from guest.errors import DeniedError, GuestError

NONE_FOUND: Final = "Can not find any signatures."
NO_KEY: Final = "Neither keyPath or keyData specified."
MAX_REASONS: Final = 8
"""Most reasons that are kept; the first ones say enough."""


class Reasons:
    """Why each signature that was looked at is none."""

    def __init__(self) -> None:
        """None yet."""
        self._texts: list[str] = []

    def add(self, where: str, error: GuestError) -> None:
        """One signature, or one place with signatures, is of no use."""
        if len(self._texts) < MAX_REASONS:
            self._texts.append(f"{where}: {': '.join(error.causes())}"[:300])

    def denial(self, kind: str) -> DeniedError:
        """The error of a requirement that no signature satisfied, raised from its reasons."""
        cause = DeniedError("; ".join(self._texts) if self._texts else NONE_FOUND)
        error = denied_by(kind)
        error.__cause__ = cause
        return error


def denied_by(kind: str) -> DeniedError:
    """The error of a requirement that does not hold, in the peer's words."""
    return DeniedError(f"rejected by `{kind}` rule")
