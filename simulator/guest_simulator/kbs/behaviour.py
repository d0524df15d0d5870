"""What one KBS does and how: every knob, to be turned at any time."""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

from guest_simulator.clock import Clock
from guest_simulator.kbs.admin import AdminRules
from guest_simulator.kbs.evidence import Verifier, verify_sample, verify_sample_device
from guest_simulator.kbs.jws import PublicKey
from guest_simulator.kbs.policy import ResourcePolicy, allow_all

NONCE_LENGTH: Final = 32
PAYLOAD_LIMIT: Final = 2 * 1024 * 1024
"""Bytes of a request body. Source: docs/spec/kbs-protocol.md §2."""

Plugin = Callable[[str, tuple[str, ...], Mapping[str, str], bytes], bytes | None]
"""Method, segments after the plugin's name, query, body; None is `PluginInternalError`."""


def _verifiers() -> dict[str, Verifier]:
    return {"sample": verify_sample, "sampledevice": verify_sample_device}


@dataclass(slots=True, kw_only=True)
class Behaviour:
    """The knobs of a KBS.

    Attributes:
        clock: dates sessions and tokens.
        random: gives so many random bytes.
        session_seconds: from `auth` until the session and its cookie end.
        token_seconds: from `iat` to `exp`.
        include_iat: whether tokens say when they were issued.
        not_before: seconds from `iat` to `nbf`; None for no `nbf`.
        nonce: the nonce of every challenge; None for 32 random bytes in standard base64.
        selected_hash_algorithm: announced in the challenge and verified with; None leaves
            `extra-params` empty and verifies with the server's own choice.
        challenge_extra_params: announced instead of all that, whatever it is; None for none.
        verifiers: by TEE; a TEE without one still gets a challenge.
        references: reference values by name.
        policy: may a token read a resource.
        admin: who may administrate.
        trusted_signers: keys besides the KBS's own whose tokens are taken.
        trust_header_jwk: take a token of any signer (`insecure_header_jwk`).
        payload_limit: bytes of a request body.
        prepare_answers: answer a repeated resource request, same credentials and same path,
            with the bytes of the first answer, as long as nothing has changed.
        plugins: further plugins by name; their GET answers are encrypted, the others are for
            administrators.
    """

    clock: Clock = field(default_factory=Clock)
    random: Callable[[int], bytes] = os.urandom
    session_seconds: float = 300.0
    token_seconds: int = 300
    include_iat: bool = True
    not_before: float | None = None
    nonce: str | None = None
    selected_hash_algorithm: str | None = None
    challenge_extra_params: object = None
    verifiers: dict[str, Verifier] = field(default_factory=_verifiers)
    references: dict[str, object] = field(default_factory=dict)
    policy: ResourcePolicy = allow_all
    admin: AdminRules = field(default_factory=AdminRules)
    trusted_signers: tuple[PublicKey, ...] = ()
    trust_header_jwk: bool = False
    payload_limit: int = PAYLOAD_LIMIT
    prepare_answers: bool = False
    plugins: dict[str, Plugin] = field(default_factory=dict)
