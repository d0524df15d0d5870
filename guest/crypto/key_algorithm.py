"""The names of the keys that a guest may have its secrets sent to. Sans-I/O.

Apart from the keys themselves, so that reading a configuration loads no cryptography.

Source: docs/spec/kbs-protocol.md section 5.
"""

from enum import StrEnum

from guest.errors import ConfigError


class TeeKeyAlgorithm(StrEnum):
    """The value is the configuration's spelling (`tee_key_algorithm`), matched exactly."""

    EC_P256 = "ECDH-ES+A256KW-P256"
    EC_P521 = "ECDH-ES+A256KW-P521"
    RSA = "RSA-OAEP-256"
    ML_KEM_768 = "ML-KEM-768+A192KW"

    @classmethod
    def parse(cls, text: str) -> "TeeKeyAlgorithm":
        """Read a configured name.

        Raises:
            ConfigError: no such algorithm.
        """
        try:
            return cls(text)
        except ValueError as error:
            known = ", ".join(cls)
            raise ConfigError(
                f"unknown tee_key_algorithm {text[:60]!r}, expected one of {known}"
            ) from error
