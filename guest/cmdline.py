"""The kernel's command line, and the `aa_kbc_params` that it may carry. Sans-I/O.

Source: docs/spec/attestation-agent.md 2.4, docs/spec/confidential-data-hub.md 2.4 and 2.5.
"""

from typing import Final, Self

import msgspec

from guest.errors import DecodeError

KBC_PARAMETER: Final = "agent.aa_kbc_params"

WHITESPACE: Final = " \t\n\r\f\v"
"""What separates tokens: ASCII white space only, and no quoting."""


class CommandLine(msgspec.Struct, frozen=True):
    """Keys and values in their order; a token without `=` has an empty value.

    Attributes:
        pairs: every token, split at its first `=`.
    """

    pairs: tuple[tuple[str, str], ...]

    @classmethod
    def parse(cls, text: str) -> Self:
        """Split the text of `/proc/cmdline`; any text is one."""
        for mark in WHITESPACE[1:]:
            text = text.replace(mark, " ")
        tokens = (token.partition("=") for token in text.split(" ") if "=" in token)
        return cls(tuple((key, value) for key, _, value in tokens))

    def first(self, key: str) -> str | None:
        """The value of the first `key=`, or None."""
        return next((value for name, value in self.pairs if name == key), None)

    def last(self, key: str) -> str | None:
        """The value of the last `key=`, or None."""
        return next((value for name, value in reversed(self.pairs) if name == key), None)


class KbcParams(msgspec.Struct, frozen=True, kw_only=True):
    """Which key broker client, and where its server is.

    Attributes:
        name: `cc_kbc`, `offline_fs_kbc`, or something else that nobody serves.
        url: what stands after the first `::`, unchecked; may be empty.
    """

    name: str
    url: str

    @classmethod
    def parse(cls, text: str) -> Self:
        """Split at the first `::`, so that IPv6 literals survive.

        Raises:
            DecodeError: there is no `::`.
        """
        name, mark, url = text.partition("::")
        if not mark:
            raise DecodeError(f"illegal aa_kbc_params format: {text[:200]}")
        return cls(name=name, url=url)


OFFLINE: Final = KbcParams(name="offline_fs_kbc", url="")
"""What rules where neither environment nor command line say anything."""


def find_kbc_params(environment: str | None, command_line: CommandLine) -> KbcParams:
    """The parameters in force: the environment's value, else the command line's, else offline.

    Args:
        environment: `AA_KBC_PARAMS`; set but empty is an illegal value, not an absent one.
        command_line: of the kernel.

    Raises:
        DecodeError: the value that rules has no `::`.
    """
    text = environment if environment is not None else command_line.first(KBC_PARAMETER)
    return OFFLINE if text is None else KbcParams.parse(text)
