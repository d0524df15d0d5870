"""What the agent says to a KBS, byte for byte, to a server that shares nothing with ours."""

import asyncio
import base64
import hashlib
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import pytest

from guest.crypto.keys import TeeKey
from guest.deadline import Deadline
from guest.kbs.handshake import Start
from guest.protos import aa_pb2, methods
from guest.secret import Secret
from guest.tee import Tee
from support.agents import config_of, make_agent, running
from support.raw_http import raw_server

NONCE: Final = "bm9uY2U="

PEM: Final = b"""-----BEGIN PRIVATE KEY-----
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgAAAAAAAAAAAAAAAA
AAAAAAAAAAAAAAAAAAAAAAAAAAGhRANCAARrF9Hy4SxCR/i85uVjpEDydwN9gS3r
M6D0oTlF2JjClk/jQuL+Gn+bjufrSnwPnhYrzjNXazFezsu2QGg3v1H1
-----END PRIVATE KEY-----
"""
"""docs/spec/attestation-agent.md 5.1: the private key 1."""

WITHOUT_DEVICES: Final = (
    "710ae490f150a7b6ba70b1a4d89a42ffe518b3ac18d855f94e06a135b4dfc577"
    "ca44cc6467337f0d3da2b19308b4acb6"
)
"""docs/spec/attestation-agent.md 5.2: what is bound with that key and nonce and no device."""


def token() -> str:
    parts = ({"alg": "none"}, {"exp": 4_000_000_000, "iat": 1_700_000_000})
    return ".".join(
        [*(base64.urlsafe_b64encode(json.dumps(each).encode()).decode().rstrip("=")
           for each in parts), "c2ln"]
    )  # fmt: skip


@asynccontextmanager
async def listening(extra_params: object) -> AsyncIterator[tuple[str, list[tuple[str, Any]]]]:
    """A KBS that challenges and grants; gives its address and what was posted to it."""
    posted: list[tuple[str, Any]] = []

    async def talk(head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        lines = head.decode("ascii").lower().splitlines()
        (length,) = (int(line[16:]) for line in lines if line.startswith("content-length: "))
        path = lines[0].split()[1]
        posted.append((path, json.loads(await reader.readexactly(length))))
        answer: object = {"nonce": NONCE, "extra-params": extra_params}
        if path.endswith("/attest"):
            answer = {"token": token()}
        body = json.dumps(answer).encode()
        writer.write(
            b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\n"
            b"Set-Cookie: kbs-session-id=1; Path=/kbs\r\n"
            b"Content-Length: %d\r\n\r\n%s" % (len(body), body)
        )
        await writer.drain()

    async with raw_server(talk) as address:
        yield f"http://{address}", posted


async def handshake(
    root: Path, *, devices: bool = False, extra_params: object = ""
) -> list[tuple[str, Any]]:
    """One `GetToken("kbs")`; gives what the KBS saw."""
    async with listening(extra_params) as (url, posted):
        config = config_of(token_configs={"kbs": {"url": url}})
        async with running(make_agent(root, config, devices=devices)) as channel:
            request = aa_pb2.GetTokenRequest(TokenType="kbs")
            response = await channel.call(methods.GET_TOKEN, request, deadline=Deadline.after(30))
    assert json.loads(response.Token)["token"] == token()
    return posted


def canonical(value: object) -> bytes:
    """RFC 8785 of what holds strings alone, with ASCII names."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


@pytest.mark.spec("attestation-agent", 21)
async def test_auth_says_0_4_0_and_names_the_four_hash_algorithms(short_tmp: Path) -> None:
    (path, body), _ = await handshake(short_tmp)
    assert path == "/kbs/v0/auth"
    assert body == {
        "version": "0.4.0",
        "tee": "sample",
        "extra-params": {"supported-hash-algorithms": ["sha256", "sha384", "sha512", "sm3"]},
    }


@pytest.mark.spec("attestation-agent", 22)
@pytest.mark.parametrize("devices", [False, True])
async def test_evidence_binds_nonce_key_and_device_evidence_even_when_there_is_none(
    short_tmp: Path, devices: bool
) -> None:
    _, (path, body) = await handshake(short_tmp, devices=devices)
    assert path == "/kbs/v0/attest"
    key = body["runtime-data"]["tee-pubkey"]
    additional = body["tee-evidence"]["additional_evidence"]
    assert (additional != "") is devices
    bound = canonical({"additional-evidence": additional, "nonce": NONCE, "tee-pubkey": key})
    primary = body["tee-evidence"]["primary_evidence"]["report_data"]
    assert base64.b64decode(primary) == hashlib.sha384(bound).digest()
    if devices:
        device = json.loads(additional)["sampledevice"]["report_data"]
        bound = canonical({"nonce": NONCE, "tee-pubkey": key})
        assert base64.b64decode(device) == hashlib.sha384(bound).digest()


@pytest.mark.spec("attestation-agent", 22)
def test_the_published_key_and_nonce_bind_the_published_digest() -> None:
    challenge = json.dumps({"nonce": NONCE, "extra-params": ""}).encode()
    with Secret(PEM) as pem:
        state = Start(tee=Tee.SAMPLE).challenged(challenge, TeeKey.from_pem(pem))
    assert state.devices_attested("").report_data().hex() == WITHOUT_DEVICES


@pytest.mark.spec("attestation-agent", 23)
@pytest.mark.parametrize("name", ["SHA512", "sha512", "Sha256"])
async def test_the_hash_that_the_challenge_selects_is_used_whatever_its_case(
    short_tmp: Path, name: str
) -> None:
    _, (_, body) = await handshake(short_tmp, extra_params={"selected-hash-algorithm": name})
    key = body["runtime-data"]["tee-pubkey"]
    bound = canonical({"additional-evidence": "", "nonce": NONCE, "tee-pubkey": key})
    primary = body["tee-evidence"]["primary_evidence"]["report_data"]
    assert base64.b64decode(primary) == hashlib.new(name.lower(), bound).digest()
