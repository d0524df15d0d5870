"""Whatever a client sends: a value or the decoder's own error."""

import asyncio
import contextlib
import json

from hypothesis import given
from hypothesis import strategies as st

from guest_simulator.kbs.admin import AdminDenied, AdminMode, AdminRules
from guest_simulator.kbs.evidence import EvidenceError, parse_attestation, verify_sample
from guest_simulator.kbs.failures import KbsFailure
from guest_simulator.kbs.jwe import JweError, encrypt_for
from guest_simulator.kbs.jws import JwsError, key_from_jwk, parse_jws
from guest_simulator.kbs.server import Kbs
from guest_simulator.kbs.session import cookie_value, parse_auth
from guest_simulator.kbs.token import verify_token
from guest_simulator.registry.access import Access, Mode
from guest_simulator.registry.server import Registry

JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=8,
)
MEMBERS = st.sampled_from(
    ["version", "tee", "extra-params", "runtime-data", "tee-evidence", "nonce", "tee-pubkey",
     "kty", "alg", "crv", "x", "y", "additional_evidence", "primary_evidence", "init-data"]
)  # fmt: skip
SHAPED = st.dictionaries(MEMBERS, JSON | st.dictionaries(MEMBERS, JSON, max_size=6), max_size=6)
BODIES = st.binary(max_size=100) | SHAPED.map(lambda value: json.dumps(value).encode())
TOKENS = st.text(max_size=60) | st.from_regex(r"[A-Za-z0-9_-]{0,20}(\.[A-Za-z0-9_-]{0,20}){2}")


@given(BODIES)
def test_any_body_is_a_message_or_an_error(body: bytes) -> None:
    with contextlib.suppress(KbsFailure):
        parse_auth(body)
    with contextlib.suppress(EvidenceError):
        parse_attestation(body)


@given(TOKENS)
def test_any_token_is_refused(token: str) -> None:
    with contextlib.suppress(JwsError):
        parse_jws(token)
    rules = AdminRules(mode=AdminMode.AUTHENTICATED)
    refused = False
    try:
        verify_token(token, (), 0, trust_header=True)
    except KbsFailure:
        refused = True
    assert refused
    with contextlib.suppress(AdminDenied):
        rules.check(f"Bearer {token}", "/kbs/v0/x", 0)
        raise AssertionError("an admin without a key")


@given(JSON)
def test_any_evidence_and_jwk_is_refused(value: object) -> None:
    with contextlib.suppress(EvidenceError):
        verify_sample(value, bytes(48), None)
        raise AssertionError("evidence of nothing")
    with contextlib.suppress(JwsError):
        key_from_jwk(value)


@given(st.sampled_from(["P-256", "P-521"]), st.text(max_size=90), st.text(max_size=90))
def test_any_coordinates_are_a_key_or_an_error(curve: str, x: str, y: str) -> None:
    jwk = {"kty": "EC", "crv": curve, "alg": "ECDH-ES+A256KW", "x": x, "y": y}
    with contextlib.suppress(JweError):
        encrypt_for(jwk, b"", bytes)
    rsa = {"kty": "RSA", "alg": "RSA-OAEP-256", "n": x, "e": y}
    with contextlib.suppress(JweError):
        encrypt_for(rsa, b"", bytes)
    with contextlib.suppress(JweError):
        encrypt_for({"kty": "AKP", "alg": "ML-KEM-768+A192KW", "pub": x}, b"", bytes)


@given(st.text(max_size=80))
def test_any_header_is_read(header: str) -> None:
    assert isinstance(cookie_value(header), str)
    for mode in (Mode.BASIC, Mode.BEARER):
        assert not Access(mode=mode).is_allowed(header, "a", "pull")
        assert not Access(mode=mode).is_allowed(f"Basic {header}", "a", "pull")


async def raw(port: int, request: bytes) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(request)
    answer = await reader.read()
    writer.close()
    return answer


@given(st.binary(max_size=60).filter(lambda path: not set(path) & set(b" \r\n\0")))
async def test_any_path_gets_an_answer(path: bytes) -> None:
    async with asyncio.timeout(20), Kbs() as kbs, Registry() as registry:
        for port in (kbs.port, registry.port):
            for prefix in (b"/", b"/kbs/v0/resource/", b"/v2/"):
                request = b"GET " + prefix + path + b" HTTP/1.1\r\nHost: a\r\n"
                answer = await raw(port, request + b"Connection: close\r\n\r\n")
                assert answer.startswith(b"HTTP/1.")
                assert b" 500 " not in answer.partition(b"\r\n")[0]
