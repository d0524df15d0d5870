"""An attestation service behind its REST front end: `async with AttestationService() as service`.

It verifies evidence and gives an EAR token; every refusal is status 500 with the causes as text.
A challenge is not kept: who asked for the nonce compares it with the token's.

Source: docs/spec/attestation-agent.md 5.3; docs/spec/kbs-protocol.md §7.
"""

import os
import ssl
from collections.abc import Callable, Mapping
from typing import Final

from cryptography.hazmat.primitives.asymmetric import ec

from guest_simulator.clock import Clock
from guest_simulator.encoding import (
    EncodingError,
    b64_decode,
    b64_encode,
    b64url_decode,
    parse_object,
    text_member,
)
from guest_simulator.faults import Lie
from guest_simulator.kbs.evidence import (
    DEFAULT_ALGORITHM,
    Appraised,
    EvidenceError,
    InitData,
    Verified,
    Verifier,
    parse_init_data,
    report_data,
    verify_sample,
    verify_sample_device,
)
from guest_simulator.kbs.token import ear_claims, issue_token
from guest_simulator.reply import Reply
from guest_simulator.service import HttpService, Incoming, TooLargeError

PAYLOAD_LIMIT: Final = 2 * 1024 * 1024
NONCE_LENGTH: Final = 32
HOUR: Final = 3600

TEES: Final = frozenset(
    (
        "az-snp-vtpm",
        "az-tdx-vtpm",
        "cca",
        "csv",
        "hygondcu",
        "sample",
        "sampledevice",
        "se",
        "sgx",
        "snp",
        "tdx",
    )
)
"""What the front end knows; others have a verifier, and cannot be named here."""

ALGORITHMS: Final = ("sha256", "sha384", "sha512")


class RequestError(ValueError):
    """A request that does not fit the schema: status 400."""


class AttestationService(HttpService):
    """The service, on loopback.

    Attributes:
        verifiers: by TEE; one that has none is refused.
        policies: ids that a request may name besides `default`.
        references: reference values by name.
        token_seconds: from `iat` to `exp`.
        clock: dates tokens.
        random: gives so many random bytes.
        nonces: all that were given out, in order.
        bodies: the bodies of all attestation requests, in order.
        tokens: all that were given out, in order.
    """

    def __init__(
        self,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        tls: ssl.SSLContext | None = None,
        base_path: str = "",
        signer: ec.EllipticCurvePrivateKey | None = None,
    ) -> None:
        """Make one that does not listen yet.

        Args:
            host: address to bind.
            port: 0 for any.
            tls: server context, see `guest_simulator.cert`; None for plain HTTP.
            base_path: path before `/attestation`, e.g. `/as`.
            signer: P-256 key of the tokens; None makes one.
        """
        super().__init__(self._handle, host=host, port=port, tls=tls)
        self.verifiers: dict[str, Verifier] = {
            "sample": verify_sample,
            "sampledevice": verify_sample_device,
        }
        self.policies: set[str] = {"default"}
        self.references: dict[str, object] = {}
        self.token_seconds = 300
        self.clock = Clock()
        self.random: Callable[[int], bytes] = os.urandom
        self.nonces: list[str] = []
        self.bodies: list[bytes] = []
        self.tokens: list[str] = []
        self._base_path = base_path.rstrip("/")
        self._signer = signer or ec.generate_private_key(ec.SECP256R1())

    @property
    def url(self) -> str:
        """What clients are configured with; no slash at the end."""
        return super().url + self._base_path

    async def _handle(self, request: Incoming) -> Reply:
        answers = {
            f"{self._base_path}/attestation": self._attest,
            f"{self._base_path}/challenge": self._challenge,
        }
        if request.path not in answers:
            return Reply(status=404)
        if request.method != "POST":
            return Reply(status=405)
        try:
            body = await request.read(PAYLOAD_LIMIT)
            return answers[request.path](request, body)
        except TooLargeError:
            return _text("Payload exceeds the limit", 413)
        except (RequestError, EncodingError) as error:
            return _text(f"Json deserialize error: {error}", 400)
        except EvidenceError as error:
            causes = ("Verifier evaluate failed", str(error))
            listed = "\n".join(f"    {number}: {text}" for number, text in enumerate(causes))
            return _text(f"An internal error occured: \n\nCaused by:\n{listed}", 500)

    def _challenge(self, request: Incoming, body: bytes) -> Reply:
        return _text(self.challenge(parse_object(body), request.lies))

    def challenge(self, message: Mapping[str, object], lies: frozenset[Lie] = frozenset()) -> str:
        """A nonce for a TEE.

        Args:
            message: has `tee` and `tee_params`.
            lies: what is to go wrong.

        Raises:
            EncodingError: a member is missing.
            EvidenceError: no such TEE.
        """
        _known_tee(text_member(message, "tee"))
        text_member(message, "tee_params")
        nonce = b64_encode(self.random(NONCE_LENGTH))
        self.nonces.append(nonce)
        is_lie = Lie.WRONG_NONCE in lies
        return b64_encode(self.random(NONCE_LENGTH)) if is_lie else nonce

    def _attest(self, request: Incoming, body: bytes) -> Reply:
        self.bodies.append(body)
        return _text(self.evaluate(parse_object(body), request.lies))

    def evaluate(self, message: Mapping[str, object], lies: frozenset[Lie] = frozenset()) -> str:
        """The token for some evidence.

        Args:
            message: the body of a request.
            lies: what is to go wrong.

        Raises:
            EncodingError: a member is not encoded as it should be.
            RequestError: a member is missing or of another type.
            EvidenceError: the evidence is refused.
        """
        policy_ids = _texts(message, "policy_ids") or ["default"]
        requests = message.get("verification_requests")
        if not isinstance(requests, list) or not requests:
            raise RequestError("verification_requests")
        if unknown := set(policy_ids) - self.policies:
            raise EvidenceError(f"policy is not found: {sorted(unknown)}")
        appraised = [self._appraise(_object(individual)) for individual in requests]
        token = self._token(appraised, policy_ids, lies)
        self.tokens.append(token)
        return token

    def _appraise(self, individual: Mapping[str, object]) -> Appraised:
        tee = _known_tee(text_member(individual, "tee"))
        evidence = _parse_evidence(text_member(individual, "evidence"))
        algorithm = individual.get("runtime_data_hash_algorithm", DEFAULT_ALGORITHM)
        if algorithm not in ALGORITHMS:
            raise EvidenceError(f"unknown hash algorithm {algorithm}")
        data, expected = _runtime_data(individual.get("runtime_data"), str(algorithm))
        init_data = _init_data(individual.get("init_data"))
        if tee not in self.verifiers:
            raise EvidenceError(f"no verifier for {tee}")
        if expected is None:
            expected = _own_report_data(evidence)
        verified: Verified = self.verifiers[tee](evidence, expected, init_data)
        return Appraised(tee=tee, verified=verified, runtime_data=data, init_data=init_data)

    def _token(
        self, appraised: list[Appraised], policy_ids: list[str], lies: frozenset[Lie]
    ) -> str:
        if Lie.GARBAGE_TOKEN in lies:
            return "this is no token"
        issued = int(self.clock.now())
        if Lie.EXPIRED_TOKEN in lies:
            issued -= HOUR + self.token_seconds
        claims = ear_claims(appraised, issued, self.token_seconds, self.references)
        submods = claims["submods"]
        assert isinstance(submods, dict)
        for appraisal in submods.values():
            appraisal["ear.appraisal-policy-id"] = policy_ids[0]
        return issue_token(claims, self._signer)


def _parse_evidence(text: str) -> object:
    try:
        return parse_object(b64url_decode(text))
    except EncodingError as error:
        raise EvidenceError(f"illegal evidence: {error}") from error


def _known_tee(tee: str) -> str:
    if tee not in TEES:
        raise EvidenceError(f"tee type {tee[:40]} is not supported")
    return tee


def _runtime_data(value: object, algorithm: str) -> tuple[dict[str, object], bytes | None]:
    """The claims, and the report data to expect; None expects nothing in particular."""
    if value is None:
        return {}, None
    data = _object(value)
    if "raw" in data:
        return {}, b64url_decode(text_member(data, "raw"))
    structured = _object(data.get("structured"))
    return dict(structured), report_data(algorithm, structured)


def _init_data(value: object) -> InitData | None:
    if value is None:
        return None
    data = _object(value)
    if "init_data_toml" in data:
        return parse_init_data({"format": "toml", "body": data["init_data_toml"]})
    digest = b64url_decode(text_member(data, "init_data_digest"))
    return InitData(digest=digest, claims={})


def _own_report_data(evidence: object) -> bytes:
    """What evidence says it binds, where nobody expects anything; for a quote that is zeros."""
    quoted = evidence.get("report_data", "") if isinstance(evidence, dict) else ""
    try:
        return b64_decode(quoted) if isinstance(quoted, str) else b""
    except EncodingError as error:
        raise EvidenceError(str(error)) from error


def _object(value: object) -> dict[str, object]:
    if not isinstance(value, dict):
        raise RequestError("expected an object")
    return value


def _texts(message: Mapping[str, object], name: str) -> list[str]:
    value = message.get(name)
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise RequestError(f"missing field `{name}`")
    return value


def _text(text: str, status: int = 200) -> Reply:
    return Reply(status=status, headers={"Content-Type": "text/plain"}, body=text.encode())
