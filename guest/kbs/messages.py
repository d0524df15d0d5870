"""The bodies of the KBS attestation protocol (RCAR 0.4.0) that a guest sends and reads. Sans-I/O.

Source: docs/spec/kbs-protocol.md sections 3, 4 and 8.
"""

from typing import Final

import msgspec

from guest import jsonio
from guest.crypto.digest import HashAlgorithm
from guest.errors import DecodeError
from guest.secret import Secret
from guest.tee import Tee

VERSION: Final = "0.4.0"
PREFIX: Final = "/kbs/v0"
AUTH_PATH: Final = f"{PREFIX}/auth"
ATTEST_PATH: Final = f"{PREFIX}/attest"

MAX_CHALLENGE_LENGTH: Final = 64 * 1024
MAX_TOKEN_ANSWER_LENGTH: Final = 1024 * 1024
MAX_ERROR_LENGTH: Final = 64 * 1024

DEFAULT_HASH: Final = HashAlgorithm.SHA384
SUPPORTED_HASHES: Final = tuple(algorithm.value for algorithm in HashAlgorithm)
_SELECTED: Final = "selected-hash-algorithm"


class _RequestParameters(msgspec.Struct, frozen=True, kw_only=True):
    hashes: tuple[str, ...] = msgspec.field(name="supported-hash-algorithms")


class _Request(msgspec.Struct, frozen=True, kw_only=True):
    version: str
    tee: str
    parameters: _RequestParameters = msgspec.field(name="extra-params")


class Challenge(msgspec.Struct, frozen=True, kw_only=True):
    """What the KBS answers to `auth`.

    Attributes:
        nonce: opaque text, echoed and hashed as it came, never decoded.
        extra_params: any JSON value.
    """

    nonce: str
    extra_params: object = msgspec.field(name="extra-params", default="")

    def hash_algorithm(self) -> HashAlgorithm:
        """The algorithm of all report data; SHA-384 unless the KBS chose another.

        Raises:
            DecodeError: it chose one that does not exist, or not by a string.
        """
        if not isinstance(self.extra_params, dict) or _SELECTED not in self.extra_params:
            return DEFAULT_HASH
        name = self.extra_params[_SELECTED]
        if not isinstance(name, str):
            found = msgspec.json.encode(name)[:40].decode("utf-8", "replace")
            raise DecodeError(f"unexpected JSON data type: expected string, got {found}")
        try:
            return HashAlgorithm(name.lower())
        except ValueError as error:
            raise DecodeError(f"invalid hash algorithm: {name[:40]}") from error


class InitData(msgspec.Struct, frozen=True, kw_only=True):
    """The init data document for the verifier.

    Attributes:
        body: the document's text, unchanged.
        format: always `toml`, whatever the documents say.
    """

    format: str = "toml"
    body: str


class _RuntimeData(msgspec.Struct, frozen=True, kw_only=True):
    nonce: str
    key: dict[str, str] = msgspec.field(name="tee-pubkey")


class _Evidence(msgspec.Struct, frozen=True, kw_only=True):
    primary_evidence: msgspec.Raw
    additional_evidence: str


class _Attestation(msgspec.Struct, frozen=True, kw_only=True):
    init_data: InitData | None = msgspec.field(name="init-data")
    runtime_data: _RuntimeData = msgspec.field(name="runtime-data")
    evidence: _Evidence = msgspec.field(name="tee-evidence")


class _TokenAnswer(msgspec.Struct, frozen=True, kw_only=True):
    token: str


class _TokenPair(msgspec.Struct, frozen=True, kw_only=True):
    token: str
    tee_keypair: str


class ErrorInformation(msgspec.Struct, frozen=True, kw_only=True):
    """The body of a refusal.

    Attributes:
        type: a URI whose last segment is the kind.
        detail: for people.
    """

    type: str
    detail: str

    @property
    def kind(self) -> str:
        """The last segment of `type`, such as `PolicyDeny`."""
        return self.type.rpartition("/")[2]


def encode_request(tee: Tee) -> bytes:
    """The body of `auth`."""
    parameters = _RequestParameters(hashes=SUPPORTED_HASHES)
    return msgspec.json.encode(_Request(version=VERSION, tee=tee.value, parameters=parameters))


def decode_challenge(body: bytes) -> Challenge:
    """Read the answer to `auth`.

    Raises:
        DecodeError: not a challenge.
    """
    return jsonio.decode(body, Challenge, max_bytes=MAX_CHALLENGE_LENGTH)


def encode_attestation(
    *,
    nonce: str,
    jwk: dict[str, str],
    primary: bytes,
    additional: str,
    init_data: str | None,
) -> bytes:
    """The body of `attest`.

    Args:
        nonce: the challenge's.
        jwk: the public key.
        primary: compact JSON text of the primary evidence, embedded as it is.
        additional: the string that was hashed, `""` without devices.
        init_data: the init data document, or None.
    """
    return msgspec.json.encode(
        _Attestation(
            init_data=None if init_data is None else InitData(body=init_data),
            runtime_data=_RuntimeData(nonce=nonce, key=jwk),
            evidence=_Evidence(
                primary_evidence=msgspec.Raw(primary), additional_evidence=additional
            ),
        )
    )


def decode_token_answer(body: bytes) -> Secret:
    """Read the answer to `attest`: the token's text.

    Raises:
        DecodeError: not such an answer, or the token is not ASCII.
    """
    answer = jsonio.decode(body, _TokenAnswer, max_bytes=MAX_TOKEN_ANSWER_LENGTH)
    return encode_token_text(answer.token)


def encode_token_text(token: str) -> Secret:
    """Take a token that can stand in a header.

    Raises:
        DecodeError: it is empty or has characters that are not printable ASCII.
    """
    if not token or not token.isascii() or not token.isprintable() or " " in token:
        raise DecodeError("illegal token format: not printable ASCII")
    return Secret(token.encode("ascii"))


def find_error_information(body: bytes) -> ErrorInformation | None:
    """Read a refusal's body, whose content type a KBS leaves out; None if it is something else."""
    try:
        return jsonio.decode(body, ErrorInformation, max_bytes=MAX_ERROR_LENGTH)
    except DecodeError:
        return None


def encode_token_pair(token: Secret, pem: Secret) -> Secret:
    """What AA answers to `GetToken("kbs")`: token, then private key."""
    pair = _TokenPair(
        token=token.reveal().decode("ascii"), tee_keypair=pem.reveal().decode("ascii")
    )
    return Secret(msgspec.json.encode(pair))


def decode_token_pair(data: bytes) -> tuple[Secret, Secret]:
    """Read AA's answer: the token's text and the PEM of the private key.

    Raises:
        DecodeError: a member is missing, or the token is not printable ASCII.
    """
    pair = jsonio.decode(data, _TokenPair, max_bytes=MAX_TOKEN_ANSWER_LENGTH)
    return encode_token_text(pair.token), Secret(pair.tee_keypair.encode("utf-8"))
