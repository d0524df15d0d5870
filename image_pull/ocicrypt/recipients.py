"""For whom layers are encrypted, in the words of skopeo's `--encryption-key`. Sans-I/O.

Source: docs/spec/ocicrypt.md 8.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Self

from guest.errors import InvalidInputError, UnsupportedError

SCHEMES: Final = ("jwe", "pkcs7", "pkcs11", "pgp", "provider")
WRAPPED_HERE: Final = ("jwe", "provider")
NO_PARAMETERS: Final = "Enabled"
"""What a provider is sent when the option has no parameters."""

MAX_RECIPIENTS: Final = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipients:
    """The parsed options.

    Attributes:
        public_keys: files of JWE recipients, in order.
        providers: key provider and its parameter strings, both in order of first mention.
    """

    public_keys: tuple[str, ...]
    providers: tuple[tuple[str, tuple[str, ...]], ...]

    @classmethod
    def parse(cls, options: Sequence[str]) -> Self:
        """Read `jwe:<file>` and `provider:<name>[:<parameters>]`, each any number of times.

        Raises:
            InvalidInputError: no recipient, or one that is not of these forms.
            UnsupportedError: `pkcs7`, `pkcs11` and `pgp` are for others to write.
        """
        if not 0 < len(options) <= MAX_RECIPIENTS:
            raise InvalidInputError(f"{len(options)} recipients, expected 1 to {MAX_RECIPIENTS}")
        files: list[str] = []
        providers: dict[str, tuple[str, ...]] = {}
        for option in options:
            scheme, colon, value = option.partition(":")
            if not colon or not value:
                raise InvalidInputError(f"Invalid recipient format: {option[:200]!r}")
            if scheme not in SCHEMES:
                raise InvalidInputError(f"Provided protocol not recognized: {scheme[:40]!r}")
            if scheme not in WRAPPED_HERE:
                raise UnsupportedError(f"layers cannot be encrypted with {scheme} here")
            if scheme == "jwe":
                files.append(value)
                continue
            name, colon, parameters = value.partition(":")
            if not name:
                raise InvalidInputError(f"Invalid recipient format: {option[:200]!r}")
            given = parameters if colon else NO_PARAMETERS
            providers[name] = (*providers.get(name, ()), given)
        return cls(public_keys=tuple(files), providers=tuple(providers.items()))
