"""An owner's secrets go to a Secrets Manager that verifies every signature."""

import base64
import json
import uuid
from pathlib import Path
from typing import Any

import pytest

from cdh.kms.aws import api
from cdh.kms.aws.service import AwsKeeper
from guest.deadline import Deadline
from guest.errors import (
    DeniedError,
    GuestError,
    InvalidInputError,
    PeerError,
    PlatformError,
    UnauthenticatedError,
    UnavailableError,
)
from guest.secret import Secret
from guest_simulator.faults import Fault
from support.aws_world import CREDENTIAL, REGION, AwsWorld, aws_world

CONTENT = b"canary \0\xff"
TOKEN = "0f1e2d3c-4b5a-4978-8796-a5b4c3d2e1f0"
EMPTY = {"version_id": "", "version_stage": ""}
BUSY = b'{"__type":"ThrottlingException","message":"Rate exceeded"}'
DENIED = b'{"__type":"AccessDeniedException","Message":"not authorized to perform: CreateSecret"}'
DELETED = b'{"__type":"InvalidRequestException","Message":"already scheduled for deletion."}'


def keeper(world: AwsWorld, region: str = REGION) -> AwsKeeper:
    """An owner's client."""
    return AwsKeeper.open(world.site, {"region": region}, world.credentials / "credential.json")


async def put(world: AwsWorld, name: str, content: bytes = CONTENT) -> object:
    """Hand in a secret."""
    return await keeper(world).put_secret(name, Secret(content), Deadline.after(30))


def asked(world: AwsWorld) -> list[str]:
    """The operations that were asked for."""
    return [one.headers["x-amz-target"].partition(".")[2] for one in world.cloud.requests]


def test_requests_name_the_secret_carry_its_bytes_and_a_token() -> None:
    create = api.create_secret_request("a/b", Secret(CONTENT), TOKEN)
    put_value = api.put_secret_request("a/b", Secret(CONTENT), TOKEN)
    common = {"ClientRequestToken": TOKEN, "SecretBinary": base64.b64encode(CONTENT).decode()}
    assert json.loads(create.body) == {"Name": "a/b"} | common
    assert json.loads(put_value.body) == {"SecretId": "a/b"} | common
    assert (create.target, put_value.target) == (
        "secretsmanager.CreateSecret", "secretsmanager.PutSecretValue",
    )  # fmt: skip
    assert create.host("us-east-1") == "secretsmanager.us-east-1.amazonaws.com"


async def test_a_new_secret_is_what_a_guest_gets(tmp_path: Path) -> None:
    async with aws_world(tmp_path) as world:
        assert await put(world, "a/new") == EMPTY
        opened = await world.kms().get_secret("a/new", EMPTY, Deadline.after(30))
        assert opened.reveal() == CONTENT
        assert asked(world) == ["CreateSecret", "GetSecretValue"]
        (version,) = world.cloud.store.secrets["a/new"]
        assert uuid.UUID(version.version_id).version == 4


async def test_a_secret_that_is_there_gets_a_new_version(tmp_path: Path) -> None:
    async with aws_world(tmp_path) as world:
        await put(world, "test_secret")
        assert await world.get(world.kms()) == CONTENT
        older = await world.get(world.kms(), version_stage="AWSPREVIOUS")
        assert older == "the secret ✓".encode()
        assert asked(world)[:2] == ["CreateSecret", "PutSecretValue"]
        await put(world, "test_secret", b"once more")
        tokens = [version.version_id for version in world.cloud.store.secrets["test_secret"]]
        assert len(set(tokens)) == len(tokens) == 4


async def test_a_passing_failure_is_tried_again_with_the_same_token(tmp_path: Path) -> None:
    async with aws_world(tmp_path) as world:
        world.cloud.faults.add(Fault(status=400, body=BUSY, times=2))
        await put(world, "a")
        assert asked(world) == ["CreateSecret"] * 3
        assert len(world.cloud.store.secrets["a"]) == 1
        world.cloud.faults.add(Fault(cut_after=10, times=1))
        await put(world, "b")
        assert asked(world)[3:] == ["CreateSecret"] * 2
        assert len(world.cloud.store.secrets["b"]) == 1, "the answer was lost, the request was not"
        world.cloud.faults.add(Fault(status=400, body=BUSY, times=9))
        with pytest.raises(UnavailableError, match="ThrottlingException"):
            await put(world, "c")
        assert len(world.cloud.store.secrets["c"]) == 1, "kept, though nobody was told"


@pytest.mark.parametrize(
    ("fault", "kind", "words"),
    [
        (Fault(status=400, body=DENIED), DeniedError, "not authorized to perform: CreateSecret"),
        (Fault(status=400, body=DELETED), InvalidInputError, "scheduled for deletion"),
        (Fault(body=b"{}"), PeerError, ""),
        (Fault(drop=True, times=9), UnavailableError, ""),
    ],
)
async def test_what_the_service_refuses_is_told_without_the_secret(
    tmp_path: Path, fault: Fault, kind: type[GuestError], words: str
) -> None:
    async with aws_world(tmp_path) as world:
        world.cloud.faults.add(fault)
        with pytest.raises(kind, match=r"^AWS KMS error: ") as caught:
            await put(world, "a")
        told = " ".join(caught.value.causes())
        assert words in told
        assert "canary" not in told
        assert base64.b64encode(CONTENT).decode() not in told


async def test_a_wrong_key_stores_nothing(tmp_path: Path) -> None:
    async with aws_world(tmp_path) as world:
        world.write(secret_access_key="wrong")
        with pytest.raises(UnauthenticatedError, match="InvalidSignatureException"):
            await put(world, "a")
        assert asked(world) == ["CreateSecret"]
        assert "a" not in world.cloud.store.secrets


async def test_sizes_that_the_service_never_takes_are_not_sent(tmp_path: Path) -> None:
    async with aws_world(tmp_path) as world:
        for content in (b"", bytes(api.MAX_SECRET_LENGTH + 1)):
            with pytest.raises(InvalidInputError, match="a secret has 1 to 65536 bytes"):
                await put(world, "a", content)
        assert not world.cloud.targets
        await put(world, "a", bytes(api.MAX_SECRET_LENGTH))
        assert len(await world.get(world.kms(), "a")) == api.MAX_SECRET_LENGTH


@pytest.mark.parametrize("settings", [{}, {"region": ""}, {"region": "a.b"}, {"region": 1}])
async def test_a_region_that_is_none_is_refused(tmp_path: Path, settings: dict[str, Any]) -> None:
    async with aws_world(tmp_path) as world:
        with pytest.raises(InvalidInputError, match=r"^AWS KMS error: .*region"):
            AwsKeeper.open(world.site, settings, world.credentials / "credential.json")


async def test_an_owners_file_that_is_wrong_is_named(tmp_path: Path) -> None:
    async with aws_world(tmp_path) as world:
        file = tmp_path / "mine.json"
        with pytest.raises(InvalidInputError, match="cannot be read"):
            AwsKeeper.open(world.site, {"region": REGION}, file)
        file.write_text("{}")
        with pytest.raises(PlatformError, match=r"mine\.json: .*access_key_id"):
            AwsKeeper.open(world.site, {"region": REGION}, file)
        file.write_text(json.dumps(CREDENTIAL))
        assert AwsKeeper.open(world.site, {"region": REGION}, file)
