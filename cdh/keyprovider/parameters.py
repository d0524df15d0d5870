"""The parameter string with which an image's owner chooses KEK and packet. Sans-I/O.

`skopeo copy --encryption-key provider:attestation-agent:<parameters>` hands it to the provider.

Source: docs/spec/ocicrypt.md 14.2.
"""

from dataclasses import dataclass
from typing import Final, Self

from guest.errors import DecodeError

MAX_LENGTH: Final = 16 * 1024
"""Most characters of a parameter string."""

NO_PARAMETERS: Final = "Enabled"
"""What tools send for a bare `provider:attestation-agent`."""

ALGORITHMS: Final = ("A256GCM", "A256CTR")
PACKET_VERSIONS: Final = ("1", "2")


@dataclass(frozen=True, slots=True, kw_only=True)
class WrapParameters:
    """What the owner asked for.

    Attributes:
        sample: use the published test KEK; never for anything that matters.
        kid: resource URI of the KEK, as given, or None to have one made up.
        key_path: file on the provider's machine that holds the 32 raw bytes, or None for a
            random KEK.
        algorithm: `A256GCM` or `A256CTR`.
        packet_version: `1`, the form every reader knows, or `2`.
    """

    sample: bool = False
    kid: str | None = None
    key_path: str | None = None
    algorithm: str = "A256GCM"
    packet_version: str = "1"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `key=value` fields joined by `::`; later duplicates win, unknown keys are skipped.

        A field without `=` continues the value before it, so that `keyid=kbs://[::1]/a/b/c` is
        one value.

        Raises:
            DecodeError: longer than `MAX_LENGTH`, or an unknown algorithm or packet version.
        """
        if len(text) > MAX_LENGTH:
            raise DecodeError(f"parameters have {len(text)} characters, at most {MAX_LENGTH}")
        fields: dict[str, str] = {}
        name: str | None = None
        for part in [] if text == NO_PARAMETERS else text.split("::"):
            head, equals, value = part.partition("=")
            if equals and head.isidentifier():
                name = head
                fields[name] = value
            elif name is not None:
                fields[name] += "::" + part
        return cls(
            sample=fields.get("sample") == "true",
            kid=fields.get("keyid"),
            key_path=fields.get("keypath"),
            algorithm=_one_of(ALGORITHMS, fields.get("algorithm", "A256GCM"), "algorithm"),
            packet_version=_one_of(PACKET_VERSIONS, fields.get("packet", "1"), "packet"),
        )


def _one_of(known: tuple[str, ...], value: str, what: str) -> str:
    if value not in known:
        raise DecodeError(f"{what} {value[:40]!r} is none of {', '.join(known)}")
    return value
