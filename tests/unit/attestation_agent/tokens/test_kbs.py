"""Tokens of a KBS that really checks, and of one that misbehaves."""

import base64
import json
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from attestation_agent.config import AaConfig
from attestation_agent.launch import LaunchData
from guest.crypto.keys import TeeKey
from guest.deadline import Deadline
from guest.errors import ConfigError, DeadlineError, GuestError
from guest.protos import aa_pb2, methods
from guest.rpc.method import Channel
from guest.secret import Secret
from guest_simulator.faults import Fault, kbs_error
from guest_simulator.kbs.server import Kbs
from support.agents import config_of, make_agent, running

DOCUMENT = 'version = "0.1.0"\nalgorithm = "sha384"\n[data]\n"a.toml" = "x = 1"\n'
PREFIX = "[ERROR:attestation-agent] AA-KBC get token failed: "


def kbs_config(url: str, **more: object) -> AaConfig:
    return config_of(token_configs={"kbs": {"url": url, **more}})


@asynccontextmanager
async def agent(
    root: Path, url: str, *, devices: bool = False, launch: LaunchData | None = None, **more: object
) -> AsyncIterator[Channel]:
    made = make_agent(root, kbs_config(url, **more), devices=devices, launch=launch)
    async with running(made) as channel:
        yield channel


async def get_token(channel: Channel, seconds: float = 30.0) -> dict[str, str]:
    request = aa_pb2.GetTokenRequest(TokenType="kbs")
    deadline = Deadline.after(seconds)
    response = await channel.call(methods.GET_TOKEN, request, deadline=deadline)
    members: dict[str, str] = json.loads(response.Token)
    return members


def claims_of(token: str) -> Mapping[str, object]:
    payload = token.split(".")[1]
    claims: Mapping[str, object] = json.loads(
        base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4))
    )
    return claims


def find(value: object, name: str) -> object:
    """The first member of that name, however deep."""
    if isinstance(value, Mapping):
        if name in value:
            return value[name]
        return next((f for v in value.values() if (f := find(v, name)) is not None), None)
    return None


@pytest.mark.spec("attestation-agent", 19, 20)
@pytest.mark.parametrize("devices", [False, True])
@pytest.mark.parametrize(
    ("algorithm", "head"),
    [
        ("ECDH-ES+A256KW-P256", "-----BEGIN PRIVATE KEY-----\n"),
        ("ECDH-ES+A256KW-P521", "-----BEGIN PRIVATE KEY-----\n"),
        ("RSA-OAEP-256", "-----BEGIN RSA PRIVATE KEY-----\n"),
        ("ML-KEM-768+A192KW", "-----BEGIN PRIVATE KEY-----\n"),
    ],
)
async def test_a_token_comes_with_exactly_the_key_that_was_attested(
    short_tmp: Path, algorithm: str, head: str, devices: bool
) -> None:
    async with Kbs() as kbs:
        async with agent(
            short_tmp, kbs.url, tee_key_algorithm=algorithm, devices=devices
        ) as channel:
            members = await get_token(channel)
    assert set(members) == {"token", "tee_keypair"}
    pem = members["tee_keypair"]
    assert pem.startswith(head)
    assert pem.endswith("-----\n")
    assert "\r" not in pem
    attested = find(claims_of(members["token"]), "tee-pubkey")
    assert attested == TeeKey.from_pem(Secret(pem.encode())).jwk()
    assert kbs.attestations == 1


async def test_every_call_attests_anew_and_shares_nothing(short_tmp: Path) -> None:
    async with Kbs() as kbs:
        async with agent(short_tmp, kbs.url) as channel:
            first = await get_token(channel)
            second = await get_token(channel)
    assert first["tee_keypair"] != second["tee_keypair"]
    assert first["token"] != second["token"]
    assert kbs.attestations == 2


@pytest.mark.spec("attestation-agent", 24)
async def test_the_kbs_gets_init_data_only_when_the_document_is_known(short_tmp: Path) -> None:
    (short_tmp / "i.toml").write_text(DOCUMENT)
    document = LaunchData.read(document=short_tmp / "i.toml")
    digest_alone = LaunchData(digest=bytes(48))
    async with Kbs() as kbs:  # refuses init data of a format other than toml
        for launch in (None, digest_alone, document):
            async with agent(short_tmp, kbs.url, launch=launch) as channel:
                claims = claims_of((await get_token(channel))["token"])
            expected = {"a.toml": {"x": 1}} if launch is document else None
            assert find(claims, "init_data_claims") == expected


async def test_a_fallback_address_is_used_when_the_first_is_down(short_tmp: Path) -> None:
    async with Kbs() as kbs:
        async with agent(short_tmp, "http://127.0.0.1:1", fallback_urls=[kbs.url]) as channel:
            assert (await get_token(channel))["token"]


async def test_a_refusal_says_why_with_code_internal(short_tmp: Path) -> None:
    async with Kbs() as kbs:
        kbs.faults.add(kbs_error("AttestationError", "evidence is no good", path="/attest"))
        async with agent(short_tmp, kbs.url) as channel:
            with pytest.raises(GuestError) as caught:
                await get_token(channel)
    assert str(caught.value).startswith(PREFIX)
    assert "evidence is no good" in str(caught.value)


@pytest.mark.spec("attestation-agent", 48)
async def test_retries_stop_before_the_callers_deadline(short_tmp: Path) -> None:
    async with agent(short_tmp, "http://127.0.0.1:1") as channel:
        started = time.monotonic()
        with pytest.raises(GuestError) as caught:
            await get_token(channel, 5.0)
        assert time.monotonic() - started < 5.0
        assert str(caught.value).startswith(PREFIX)
        assert not isinstance(caught.value, DeadlineError)


async def test_a_silent_kbs_costs_no_more_than_the_deadline(short_tmp: Path) -> None:
    async with Kbs() as kbs:
        kbs.faults.add(Fault(path="/auth", delay=40.0))
        async with agent(short_tmp, kbs.url) as channel:
            started = time.monotonic()
            with pytest.raises(GuestError):
                await get_token(channel, 1.5)
            assert time.monotonic() - started < 15.0


async def test_a_url_that_is_none_says_so(short_tmp: Path) -> None:
    with pytest.raises(ConfigError, match=r"^token_configs\.kbs\.url 'ftp://x' is no"):
        async with agent(short_tmp, "ftp://x"):
            pass
