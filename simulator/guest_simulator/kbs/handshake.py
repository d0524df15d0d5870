"""The two calls of the handshake: `auth` and `attest`.

Source: docs/spec/kbs-protocol.md §3.
"""

import logging
from typing import Final

from cryptography.hazmat.primitives.asymmetric import ec

from guest_simulator.encoding import b64_encode, compact_json
from guest_simulator.faults import Lie
from guest_simulator.kbs.behaviour import NONCE_LENGTH, Behaviour
from guest_simulator.kbs.evidence import (
    Attestation,
    EvidenceError,
    appraise,
    parse_attestation,
)
from guest_simulator.kbs.failures import attest_failed
from guest_simulator.kbs.session import Session, Sessions, parse_auth
from guest_simulator.kbs.token import ear_claims, issue_token
from guest_simulator.reply import Reply
from guest_simulator.service import Incoming

log = logging.getLogger(__name__)

HOUR: Final = 3600
JSON: Final = "application/json"


class Handshake:
    """Sessions, challenges and tokens.

    Attributes:
        sessions: what is under way or attested.
        handshakes: `auth` calls that got a challenge.
        attestations: evidence that was verified and led to a token.
    """

    def __init__(self, behaviour: Behaviour, signer: ec.EllipticCurvePrivateKey) -> None:
        self.sessions = Sessions()
        self.handshakes = 0
        self.attestations = 0
        self._behaviour = behaviour
        self._signer = signer

    async def auth(self, request: Incoming) -> Reply:
        """Give a challenge and open a session.

        Raises:
            KbsFailure: the request or its version is not good.
        """
        behaviour = self._behaviour
        wanted = parse_auth(await request.read(behaviour.payload_limit))
        now = behaviour.clock.now()
        self.sessions.sweep(now)
        session = Session(
            identity=behaviour.random(16).hex(),
            tee=wanted.tee,
            nonce=self._nonce(),
            expires=now + behaviour.session_seconds,
            algorithm=behaviour.selected_hash_algorithm,
        )
        self.sessions.add(session)
        self.handshakes += 1
        nonce = self._nonce(fresh=True) if Lie.WRONG_NONCE in request.lies else session.nonce
        body = compact_json({"nonce": nonce, "extra-params": self._extra_params()})
        headers = {"Content-Type": JSON}
        if Lie.NO_COOKIE not in request.lies:
            headers["Set-Cookie"] = session.cookie()
        return Reply(headers=headers, body=body)

    def _nonce(self, *, fresh: bool = False) -> str:
        if self._behaviour.nonce is not None and not fresh:
            return self._behaviour.nonce
        return b64_encode(self._behaviour.random(NONCE_LENGTH))

    def _extra_params(self) -> object:
        behaviour = self._behaviour
        if behaviour.challenge_extra_params is not None:
            return behaviour.challenge_extra_params
        if behaviour.selected_hash_algorithm is None:
            return ""
        return {"selected-hash-algorithm": behaviour.selected_hash_algorithm}

    async def attest(self, request: Incoming) -> Reply:
        """Verify evidence and give a token; a session that has one gets the same again.

        Raises:
            KbsFailure: no session, wrong nonce or evidence that does not convince.
        """
        behaviour = self._behaviour
        body = await request.read(behaviour.payload_limit)
        session = self.sessions.find(request.header("Cookie"), behaviour.clock.now())
        if session is None:
            log.info("attest without a session")
            raise attest_failed()
        if session.token is None:
            try:
                session.token = self._verify(session, body, request.lies)
            except EvidenceError as error:
                log.info("attest refused: %s", error)
                raise attest_failed() from error
            self.attestations += 1
        headers = {"Content-Type": JSON, "Set-Cookie": session.cookie()}
        return Reply(headers=headers, body=compact_json({"token": session.token}))

    def _verify(self, session: Session, body: bytes, lies: frozenset[Lie]) -> str:
        attestation = parse_attestation(body)
        if attestation.nonce != session.nonce:
            raise EvidenceError("the nonce is not the session's")
        return self._token(session, attestation, lies)

    def _token(self, session: Session, attestation: Attestation, lies: frozenset[Lie]) -> str:
        behaviour = self._behaviour
        appraised = appraise(session.tee, attestation, behaviour.verifiers, session.algorithm)
        if Lie.GARBAGE_TOKEN in lies:
            return "this is no token"
        issued = int(behaviour.clock.now())
        if Lie.EXPIRED_TOKEN in lies:
            issued -= HOUR + behaviour.token_seconds
        claims = ear_claims(appraised, issued, behaviour.token_seconds, behaviour.references)
        if not behaviour.include_iat:
            del claims["iat"]
        if Lie.FUTURE_TOKEN in lies:
            claims["nbf"] = issued + HOUR
        elif behaviour.not_before is not None:
            claims["nbf"] = int(issued + behaviour.not_before)
        return issue_token(claims, self._signer)
