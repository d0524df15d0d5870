"""The attestation handshake with a KBS, one class for each state. Sans-I/O.

Start → (challenge) → Challenged → (device evidence) → DevicesAttested → (primary evidence) →
Attesting → (token). Each state gives what must be sent or proven next and the method that leads
on; a handshake that failed is begun anew.

Source: docs/spec/kbs-protocol.md sections 3 and 4; docs/spec/attestation-agent.md 5.2.
"""

import json
from dataclasses import dataclass

from guest import jsonio
from guest.crypto.digest import HashAlgorithm
from guest.crypto.keys import TeeKey
from guest.errors import DecodeError
from guest.kbs.messages import (
    decode_challenge,
    decode_token_answer,
    encode_attestation,
    encode_request,
)
from guest.kbs.token import TokenTimes
from guest.secret import Secret
from guest.tee import Tee
from guest.wire import encode_base64


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """Nothing was sent yet.

    Attributes:
        tee: the primary TEE.
        init_data: the init data document's text, or None.
    """

    tee: Tee
    init_data: str | None = None

    def body(self) -> bytes:
        """What to POST to `auth`."""
        return encode_request(self.tee)

    def challenged(self, body: bytes, key: TeeKey) -> "Challenged":
        """Take the answer.

        Args:
            body: of the answer with status 200.
            key: the pair that this handshake binds; `auth` does not need it yet.

        Raises:
            DecodeError: not a challenge, or one with a hash algorithm that does not exist.
        """
        challenge = decode_challenge(body)
        return Challenged(
            tee=self.tee,
            jwk=key.jwk(),
            init_data=self.init_data,
            nonce=challenge.nonce,
            algorithm=challenge.hash_algorithm(),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Challenged:
    """The nonce is known; the devices must prove themselves first."""

    tee: Tee
    jwk: dict[str, str]
    init_data: str | None
    nonce: str
    algorithm: HashAlgorithm

    def report_data(self) -> bytes:
        """What each device's evidence binds.

        Raises:
            DecodeError: the nonce has no canonical form.
        """
        bound = {"nonce": self.nonce, "tee-pubkey": self.jwk}
        return self.algorithm.of(jsonio.canonical(bound)).value

    def devices_attested(self, additional: str) -> "DevicesAttested":
        """Take the devices' evidence: one JSON text, `""` without devices."""
        return DevicesAttested(challenged=self, additional=additional)


@dataclass(frozen=True, slots=True, kw_only=True)
class DevicesAttested:
    """The primary TEE must prove itself, and what the devices said."""

    challenged: Challenged
    additional: str

    def report_data(self) -> bytes:
        """What the primary evidence binds: a digest, or for IBM SE a JSON text that holds it.

        Raises:
            DecodeError: no canonical form, or a nonce that is not what IBM SE needs.
        """
        state = self.challenged
        bound = {
            "additional-evidence": self.additional,
            "nonce": state.nonce,
            "tee-pubkey": state.jwk,
        }
        digest = state.algorithm.of(jsonio.canonical(bound)).value
        if state.tee is Tee.SE:
            return _se_request(state.nonce, digest)
        return digest

    def primary_attested(self, evidence: bytes) -> "Attesting":
        """Take the primary evidence, compact JSON text."""
        return Attesting(devices=self, evidence=evidence)


@dataclass(frozen=True, slots=True, kw_only=True)
class Attesting:
    """All evidence is here."""

    devices: DevicesAttested
    evidence: bytes

    def body(self) -> bytes:
        """What to POST to `attest`."""
        state = self.devices.challenged
        return encode_attestation(
            nonce=state.nonce,
            jwk=state.jwk,
            primary=self.evidence,
            additional=self.devices.additional,
            init_data=state.init_data,
        )

    def token(self, body: bytes) -> Secret:
        """Take the answer: the token, whose times can be read.

        Raises:
            DecodeError: not such an answer, or not a token.
        """
        token = decode_token_answer(body)
        TokenTimes.decode(token)
        return token


def _se_request(nonce: str, digest: bytes) -> bytes:
    """Put the digest into the JSON that a SE nonce is; members keep their order."""
    encoded = nonce.encode("utf-8")
    jsonio.check(encoded)
    request: object = json.loads(encoded)
    if not isinstance(request, dict):
        raise DecodeError("nonce for IBM SE is not a JSON object")
    request["runtime_data_digest"] = encode_base64(digest)
    return json.dumps(request, separators=(",", ":"), ensure_ascii=False).encode("utf-8")
