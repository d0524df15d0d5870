"""Resources that are pushed: a key that evidence vouches for, one attempt, little time, few."""

import asyncio
import json
import os
import stat
from pathlib import Path

import msgspec
import pytest

from cdh.config import InjectionConfig
from cdh.injection import ResourceInjection, report_data
from guest.deadline import Deadline
from guest.errors import (
    GuestError,
    IntegrityError,
    InvalidInputError,
    LimitError,
    NotFoundError,
    PeerError,
    UnavailableError,
)
from guest.protos import cdh_pb2
from guest.protos.injection import COMMIT, PREPARE
from guest_simulator.kbs.jwe import encrypt_for
from support.kbs_hub import hub_world

NONCE = "bm9uY2U"


class Agent:
    """Gives what it is asked to bind as evidence."""

    def __init__(self) -> None:
        self.failure: GuestError | None = None

    async def get_evidence(self, report_data: bytes, deadline: Deadline) -> bytes:
        if self.failure is not None:
            raise self.failure
        return report_data


def injection(folder: Path, **config: object) -> ResourceInjection:
    return ResourceInjection(msgspec.convert(config, InjectionConfig), Agent(), folder)


def encrypted(public_key: str, content: bytes = b"pushed") -> bytes:
    return encrypt_for(json.loads(public_key), content, os.urandom)


def soon() -> Deadline:
    return Deadline.after(20)


def test_the_runtime_data_has_the_published_digest() -> None:
    jwk = {"alg": "ECDH-ES+A256KW", "crv": "P-256", "kty": "EC", "x": "xxx", "y": "yyy"}
    assert report_data(NONCE, jwk).hex() == (
        "f3b0097f0ec59b2e32156bd4a720dce076672fc44710c6987f7b8d6afc886eb7"
        "4434d08815df1940bb3bc889f5e19b6f"
    )


async def test_what_is_encrypted_to_the_key_is_stored_privately(tmp_path: Path) -> None:
    service = injection(tmp_path)
    prepared = await service.prepare("a/b/c", NONCE, soon())
    jwk = json.loads(prepared.public_key)
    assert prepared.evidence == report_data(NONCE, jwk)
    assert set(jwk) == {"kty", "crv", "alg", "x", "y"}
    await service.commit(prepared.session, "a/b/c", encrypted(prepared.public_key))
    assert (tmp_path / "a/b/c").read_bytes() == b"pushed"
    assert stat.S_IMODE((tmp_path / "a/b/c").stat().st_mode) == 0o600
    with pytest.raises(NotFoundError, match="session not found or already used"):
        await service.commit(prepared.session, "a/b/c", encrypted(prepared.public_key))


@pytest.mark.parametrize("path", ["", "/a", "a//b", "a/", ".", "a/../b", "a\0b", "n" * 256])
async def test_a_path_is_relative_and_stays_inside(path: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="resource injection failed: invalid resource path"):
        await injection(tmp_path).prepare(path, NONCE, soon())


async def test_a_nonce_is_needed(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="nonce must not be empty"):
        await injection(tmp_path).prepare("a", "", soon())
    with pytest.raises(InvalidInputError, match="nonce is longer"):
        await injection(tmp_path).prepare("a", "n" * 5000, soon())


@pytest.mark.parametrize("wrong", ["path", "key", "json", "bit"])
async def test_a_session_serves_one_attempt_also_if_it_fails(wrong: str, tmp_path: Path) -> None:
    service = injection(tmp_path)
    prepared = await service.prepare("a/b", NONCE, soon())
    good = encrypted(prepared.public_key)
    content, path = good, "a/b"
    if wrong == "path":
        path = "a/c"
    elif wrong == "key":
        content = encrypted((await service.prepare("a/b", NONCE, soon())).public_key)
    elif wrong == "json":
        content = b"{}"
    else:
        members = json.loads(good)
        members["tag"] = ("B" if members["tag"][0] == "A" else "A") + members["tag"][1:]
        content = json.dumps(members).encode()
    with pytest.raises((InvalidInputError, IntegrityError), match="resource injection failed: "):
        await service.commit(prepared.session, path, content)
    with pytest.raises(NotFoundError):
        await service.commit(prepared.session, "a/b", good)
    assert list(tmp_path.iterdir()) == []


async def test_a_session_ends_by_itself(tmp_path: Path) -> None:
    service = injection(tmp_path, seconds=1e-9)
    prepared = await service.prepare("a", NONCE, soon())
    with pytest.raises(NotFoundError):
        await service.commit(prepared.session, "a", encrypted(prepared.public_key))


async def test_only_so_many_sessions_are_open(tmp_path: Path) -> None:
    service = injection(tmp_path, max_sessions=2)
    prepared = [await service.prepare("a", NONCE, soon()) for _ in range(2)]
    with pytest.raises(LimitError, match="2 sessions are open already"):
        await service.prepare("a", NONCE, soon())
    await service.commit(prepared[0].session, "a", encrypted(prepared[0].public_key))
    await service.prepare("a", NONCE, soon())
    service.close()


async def test_without_evidence_there_is_no_session(tmp_path: Path) -> None:
    agent = Agent()
    agent.failure = UnavailableError("gone")
    service = ResourceInjection(InjectionConfig(max_sessions=1), agent, tmp_path)
    for _ in range(3):
        with pytest.raises(UnavailableError, match="resource injection failed: gone"):
            await service.prepare("a", NONCE, soon())


async def test_the_calls_exist_only_where_they_are_configured(short_tmp: Path) -> None:
    request = cdh_pb2.PrepareResourceInjectionRequest(ResourcePath="a/b", Nonce=NONCE)
    commit = cdh_pb2.CommitResourceInjectionRequest(SessionId="x", ResourcePath="a/b")
    async with hub_world(short_tmp) as world:
        with pytest.raises(GuestError, match="PrepareResourceInjection method"):
            await world.channel.call(PREPARE, request, deadline=soon())
    tables: dict[str, object] = {"resource_injection": {"enabled": True}}
    async with hub_world(short_tmp, tables=tables) as world:
        with pytest.raises(
            NotFoundError, match=r"^\[CDH\] \[ERROR\]: CommitResourceInjection failed"
        ):
            await world.channel.call(COMMIT, commit, deadline=soon())
        # The agent beside this hub gives tokens only.
        with pytest.raises(
            (PeerError, GuestError), match=r"^\[CDH\] \[ERROR\]: PrepareResourceInjection failed"
        ):
            await world.channel.call(PREPARE, request, deadline=soon())


async def push(service: ResourceInjection, path: str, content: bytes) -> None:
    prepared = await service.prepare(path, NONCE, soon())
    await service.commit(prepared.session, path, encrypted(prepared.public_key, content))


async def test_what_was_pushed_has_a_limit_together(tmp_path: Path) -> None:
    service = injection(tmp_path, max_bytes=20_000)
    await push(service, "a", bytes(9_000))
    await push(service, "b/c", b"small")
    await push(service, "a", bytes(10_000))
    with pytest.raises(LimitError, match="more than 20000 bytes would be stored"):
        await push(service, "d", bytes(8_000))
    assert not (tmp_path / "d").exists()
    await push(service, "d", b"")
    with pytest.raises(LimitError):
        await push(service, "e", b"")


@pytest.mark.parametrize("own", ["luks-headers/x.header", "ocicrypt_config.json", "storage/x"])
async def test_what_the_hub_keeps_for_itself_is_not_pushed_over(own: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match=r"invalid resource path: .*is the hub's own"):
        await injection(tmp_path).prepare(own, NONCE, soon())


async def test_pushes_into_one_folder_at_one_time_do_not_mix(tmp_path: Path) -> None:
    service = injection(tmp_path)
    contents = {f"folder/{n}": bytes([n]) * 200_000 for n in range(12)}
    async with asyncio.TaskGroup() as group:
        for path, content in contents.items():
            group.create_task(push(service, path, content), name=path)
    stored = {f"folder/{one.name}": one.read_bytes() for one in (tmp_path / "folder").iterdir()}
    assert stored == contents
