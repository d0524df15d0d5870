"""The times in an attestation token, all that a guest reads of it. Sans-I/O.

The signature is the KBS's business: it is the one that relies on the token.

Source: docs/spec/kbs-protocol.md section 7; RFC 7519 section 4.1.
"""

import msgspec

from guest import jsonio
from guest.errors import DecodeError
from guest.secret import Secret
from guest.wire import decode_base64url


class TokenTimes(msgspec.Struct, frozen=True, kw_only=True):
    """Points on the issuer's wall clock, in seconds since 1970; each may be missing.

    Attributes:
        exp: from here on the token is not valid.
        nbf: until here it is not valid yet.
        iat: when it was issued.
    """

    exp: float | None = None
    nbf: float | None = None
    iat: float | None = None

    @classmethod
    def decode(cls, token: Secret) -> "TokenTimes":
        """Read the second part of a JWT.

        Raises:
            DecodeError: no second part, or it is not base64url JSON with numbers for the times.
        """
        parts = token.reveal().split(b".", 2)
        if len(parts) < 2:
            raise DecodeError("illegal token format")
        try:
            return jsonio.decode(decode_base64url(parts[1], "token payload"), cls)
        except DecodeError as error:
            raise DecodeError(f"illegal token format: {error}") from error

    def is_valid_at(self, now: float) -> bool:
        """Whether a reader whose wall clock shows `now` takes the token as valid; no leeway."""
        is_over = self.exp is not None and self.exp < now
        is_early = self.nbf is not None and self.nbf > now
        return not (is_over or is_early)

    def life(self, now: float) -> float | None:
        """Seconds of use from receipt, which two wall clocks that disagree do not shorten.

        Args:
            now: this machine's wall clock, used only if the token does not say when it was
                issued.

        Returns:
            None without `exp`; never negative.
        """
        if self.exp is None:
            return None
        return max(0.0, self.exp - (now if self.iat is None else self.iat))
