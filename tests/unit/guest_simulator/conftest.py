"""A guest in forty lines: keys, the handshake, opening answers; shares no code with the product."""

import base64
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.concatkdf import ConcatKDFHash
from cryptography.hazmat.primitives.keywrap import aes_key_unwrap
from yarl import URL


def b64u(data: bytes) -> str:
    """Base64url without padding."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def unb64u(text: str) -> bytes:
    """Its inverse."""
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


Key = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey


def jwk_of(key: Key, algorithm: str = "RSA-OAEP-256") -> dict[str, str]:
    """The public key as the guest announces it."""
    if isinstance(key, rsa.RSAPrivateKey):
        n = key.public_key().public_numbers().n
        encoded = b64u(n.to_bytes((n.bit_length() + 7) // 8, "big"))
        return {"kty": "RSA", "alg": algorithm, "n": encoded, "e": "AQAB"}
    point, size = key.public_key().public_numbers(), (key.curve.key_size + 7) // 8
    x, y = (b64u(value.to_bytes(size, "big")) for value in (point.x, point.y))
    curve = "P-521" if size == 66 else "P-256"
    return {"kty": "EC", "crv": curve, "alg": "ECDH-ES+A256KW", "x": x, "y": y}


def unwrap(key: Key, header: dict[str, Any], wrapped: bytes) -> bytes:
    """The content key of a JWE."""
    if isinstance(key, rsa.RSAPrivateKey):
        if header["alg"] == "RSA1_5":
            return key.decrypt(wrapped, padding.PKCS1v15())
        sha256 = hashes.SHA256()
        return key.decrypt(wrapped, padding.OAEP(padding.MGF1(sha256), sha256, None))
    epk = header["epk"]
    numbers = ec.EllipticCurvePublicNumbers(
        int.from_bytes(unb64u(epk["x"]), "big"), int.from_bytes(unb64u(epk["y"]), "big"), key.curve
    )
    info = b"\0\0\0\x0eECDH-ES+A256KW" + bytes(8) + b"\0\0\1\0"
    shared = key.exchange(ec.ECDH(), numbers.public_key())
    return aes_key_unwrap(ConcatKDFHash(hashes.SHA256(), 32, info).derive(shared), wrapped)


def open_jwe(key: Key, body: bytes) -> bytes:
    """The plaintext of an answer."""
    jwe = json.loads(body)
    header = json.loads(unb64u(jwe["protected"]))
    content_key = unwrap(key, header, unb64u(jwe["encrypted_key"]))
    sealed = unb64u(jwe["ciphertext"]) + unb64u(jwe["tag"])
    return AESGCM(content_key).decrypt(unb64u(jwe["iv"]), sealed, jwe["protected"].encode())


class Answer:
    """Status, headers and body of a response."""

    def __init__(self, status: int, headers: Any, body: bytes) -> None:
        self.status = status
        self.headers = headers
        self.body = body

    @property
    def json(self) -> Any:
        """The body, parsed."""
        return json.loads(self.body)

    @property
    def kind(self) -> str:
        """The last part of the error's type."""
        return str(self.json["type"]).rpartition("/")[2]


class Guest:
    """One client; sends exactly what it is told."""

    def __init__(self, url: str, key: Key | None = None, algorithm: str = "RSA-OAEP-256") -> None:
        self.url = url
        self.key = key or ec.generate_private_key(ec.SECP256R1())
        self.jwk = jwk_of(self.key, algorithm)
        self.cookie = ""
        self.nonce = ""
        self.token = ""

    async def call(self, method: str, path: str, body: bytes = b"", **headers: str) -> Answer:
        """One request, nothing added."""
        timeout = aiohttp.ClientTimeout(total=30)
        async with aiohttp.ClientSession(timeout=timeout) as session:
            async with session.request(
                method, URL(self.url + path, encoded=True), data=body, headers=headers
            ) as response:
                return Answer(response.status, response.headers, await response.read())

    async def auth(self, **changes: object) -> Answer:
        """Ask for a challenge."""
        message: dict[str, object] = {"version": "0.4.0", "tee": "sample", "extra-params": ""}
        message |= changes
        message = {name: value for name, value in message.items() if value is not None}
        answer = await self.call("POST", "/kbs/v0/auth", json.dumps(message).encode())
        if answer.status == 200:
            self.nonce = answer.json["nonce"]
            self.cookie = answer.headers.get("Set-Cookie", "").partition(";")[0]
        return answer

    def evidence(
        self,
        algorithm: str = "sha384",
        additional: str = "",
        report: Callable[[bytes], bytes] = lambda digest: digest,
        **changes: object,
    ) -> dict[str, Any]:
        """The body of attest with sample evidence."""
        data = {"additional-evidence": additional, "nonce": self.nonce, "tee-pubkey": self.jwk}
        hashed = json.dumps(data, sort_keys=True, separators=(",", ":")).encode()
        quoted = base64.b64encode(report(hashlib.new(algorithm, hashed).digest())).decode()
        return {
            "init-data": None,
            "runtime-data": {"nonce": self.nonce, "tee-pubkey": self.jwk},
            "tee-evidence": {
                "primary_evidence": {"svn": "1", "report_data": quoted},
                "additional_evidence": additional,
            },
        } | changes

    def device_string(self, algorithm: str = "sha384") -> str:
        """Additional evidence of a sample device."""
        data = {"nonce": self.nonce, "tee-pubkey": self.jwk}
        hashed = json.dumps(data, sort_keys=True, separators=(",", ":")).encode()
        quoted = base64.b64encode(hashlib.new(algorithm, hashed).digest()).decode()
        return json.dumps({"sampledevice": {"svn": "2", "report_data": quoted}})

    async def attest(self, body: object = None, cookie: str | None = None) -> Answer:
        """Send evidence."""
        sent = self.cookie if cookie is None else cookie
        data = json.dumps(body if body is not None else self.evidence()).encode()
        headers = {"Cookie": sent} if sent else {}
        answer = await self.call("POST", "/kbs/v0/attest", data, **headers)
        if answer.status == 200:
            self.token = answer.json["token"]
        return answer

    async def attested(self) -> "Guest":
        """Do the whole handshake."""
        assert (await self.auth()).status == 200
        assert (await self.attest()).status == 200
        return self

    async def get(self, key: str, *, cookie: bool = False, bearer: bool = True) -> Answer:
        """Ask for a resource."""
        headers = {"Cookie": self.cookie} if cookie else {}
        if bearer:
            headers["Authorization"] = f"Bearer {self.token}"
        return await self.call("GET", f"/kbs/v0/resource/{key}", b"", **headers)

    def open(self, answer: Answer) -> bytes:
        """The resource in an answer."""
        return open_jwe(self.key, answer.body)


@pytest.fixture
def guest_class() -> type[Guest]:
    """The class, for tests cannot import it."""
    return Guest


@pytest.fixture
def open_answer() -> Callable[[Key, bytes], bytes]:
    """Opens a JWE."""
    return open_jwe


@pytest.fixture(scope="session")
def kbs_vectors(vectors: Path) -> Any:
    """The vectors of docs/spec/kbs-protocol.md section 14."""
    return json.loads((vectors / "guest_simulator" / "kbs.json").read_text())
