"""The shared gateways and the metadata server, against ones that verify every signature."""

import asyncio
from pathlib import Path

import pytest

from guest.errors import (
    DeniedError,
    GuestError,
    InvalidInputError,
    NotFoundError,
    PeerError,
    PlatformError,
    UnauthenticatedError,
    UnavailableError,
)
from guest_simulator.faults import Fault
from guest_simulator.kms.aliyun.metadata import TokenMode
from support.aliyun_world import REGION, ROLE, AliyunWorld, aliyun_world

ROLE_ARN = "acs:ram::1:role/reader"
PROVIDER_ARN = "acs:ram::1:oidc-provider/cluster"
EXPECTED = "the secret ✓".encode()


def sts_settings(world: AliyunWorld) -> dict[str, object]:
    key = world.cloud.store.issue()
    path = world.folder / "token"
    path.write_text(f"{key.key_id}:{key.secret}:{key.token}\n")
    return {"client_type": "sts_token", "token_path": str(path), "region_id": REGION}


def oidc_settings(world: AliyunWorld) -> dict[str, object]:
    world.cloud.store.id_tokens["e.y.J"] = ROLE_ARN
    return {
        "client_type": "oidc_ram",
        "id_token": "e.y.J",
        "oidc_provider_arn": PROVIDER_ARN,
        "role_arn": ROLE_ARN,
        "region_id": REGION,
    }


async def test_a_token_from_a_file_gets_secrets(tmp_path: Path) -> None:
    async with aliyun_world(tmp_path) as world:
        kms = world.kms(**sts_settings(world))
        assert await world.get(kms) == EXPECTED
        assert await world.get(kms, version_stage="ACSPrevious") == b"the older value"
        assert set(world.cloud.targets) == {f"kms.{REGION}.aliyuncs.com:443"}
        with pytest.raises(NotFoundError, match="ResourceNotFound"):
            await world.get(kms, "another")


async def test_a_secret_may_not_name_files_elsewhere(tmp_path: Path) -> None:
    async with aliyun_world(tmp_path / "root") as world:
        settings = sts_settings(world)
        outside = tmp_path / "outside"
        Path(str(settings["token_path"])).rename(outside)
        link = world.folder / "link"
        link.symlink_to(outside)
        for path in (str(outside), str(link), f"{world.folder}/../outside", "token", "/etc/passwd"):
            with pytest.raises(InvalidInputError, match=r"outside|absolute"):
                await world.get(world.kms(**settings | {"token_path": path}))
        with pytest.raises(NotFoundError):
            await world.get(world.kms(**settings))
        folder = str(world.credentials)
        with pytest.raises(PlatformError, match="no regular file"):
            await world.get(world.kms(**settings | {"token_path": folder}))
        (world.folder / "token").write_text("canary:canary")
        with pytest.raises(PlatformError, match="STS token file") as caught:
            await world.get(world.kms(**settings))
        assert "canary" not in " ".join(caught.value.causes())
        assert not world.cloud.targets


async def test_a_wrong_signature_is_refused_without_the_token_in_the_error(tmp_path: Path) -> None:
    async with aliyun_world(tmp_path) as world:
        settings = sts_settings(world)
        key = next(iter(world.cloud.store.access_keys.values()))
        path = world.folder / "token"
        path.write_text(f"{key.key_id}:wrong:{key.token}")
        with pytest.raises(UnauthenticatedError, match="SignatureDoesNotMatch") as caught:
            await world.get(world.kms(**settings))
        assert "CAIS" not in " ".join(caught.value.causes())
        assert world.cloud.requests.count() == 1, "a token of a file is not renewed"


@pytest.mark.spec("confidential-data-hub", 43)
async def test_the_machines_role_is_asked_with_a_token_and_without_where_there_are_none(
    tmp_path: Path,
) -> None:
    async with aliyun_world(tmp_path / "a") as world:
        assert await world.get(world.kms(client_type="ecs_ram_role")) == EXPECTED
        asked = [(r.method, r.path, r.status) for r in world.cloud.metadata_requests]
        role = f"/latest/meta-data/ram/security-credentials/{ROLE}"
        assert asked == [("PUT", "/latest/api/token", 200), ("GET", role, 200)]
        assert set(world.cloud.targets) == {f"kms.{REGION}.aliyuncs.com:443"}
    async with aliyun_world(tmp_path / "b") as world:
        world.cloud.metadata.mode = TokenMode.UNKNOWN
        assert await world.get(world.kms(client_type="ecs_ram_role")) == EXPECTED
        asked = [(r.method, r.path, r.status) for r in world.cloud.metadata_requests]
        assert asked == [("PUT", "/latest/api/token", 404), ("GET", role, 200)]


async def test_a_roles_key_is_kept_until_five_minutes_before_its_end(tmp_path: Path) -> None:
    async with aliyun_world(tmp_path) as world:
        async with asyncio.TaskGroup() as tasks:
            for number in range(20):
                kms = world.kms(client_type="ecs_ram_role")
                tasks.create_task(world.get(kms), name=f"secret {number}")
        assert world.cloud.store.issued == 1
    async with aliyun_world(tmp_path / "short") as world:
        world.cloud.store.key_seconds = 299
        for _ in range(2):
            await world.get(world.kms(client_type="ecs_ram_role"))
        assert world.cloud.store.issued == 2


async def test_a_kept_key_that_is_refused_is_renewed_once(tmp_path: Path) -> None:
    async with aliyun_world(tmp_path) as world:
        kms = world.kms(client_type="ecs_ram_role")
        assert await world.get(kms) == EXPECTED
        world.cloud.store.access_keys.clear()
        assert await world.get(kms) == EXPECTED
        assert world.cloud.store.issued == 2
        body = b'{"Code":"InvalidSecurityToken.Expired"}'
        world.cloud.faults.add(Fault(status=400, body=body))
        with pytest.raises(UnauthenticatedError):
            await world.get(kms)
        assert world.cloud.store.issued == 3


@pytest.mark.parametrize(
    ("fault", "kind", "words"),
    [
        (Fault(method="GET", status=404), NotFoundError, "failed with status: 404"),
        (Fault(method="GET", status=500), PeerError, "failed with status: 500"),
        (Fault(method="GET", status=503), UnavailableError, "failed with status: 503"),
        (Fault(method="PUT", status=403), PeerError, "metadata token failed with status: 403"),
        (Fault(method="PUT", body=b"a\nb"), PeerError, "metadata token"),
        (Fault(method="GET", body=b"{}"), PeerError, "unexpected answer"),
        (Fault(method="GET", delay=300), GuestError, "no time left"),
    ],
)
async def test_a_metadata_server_that_fails_is_told_and_asked_no_longer_than_a_second(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    fault: Fault,
    kind: type[GuestError],
    words: str,
) -> None:
    async with aliyun_world(tmp_path) as world:
        world.cloud.metadata_faults.add(fault)
        with pytest.raises(kind, match=words) as caught:
            await world.get(world.kms(client_type="ecs_ram_role"))
        assert str(caught.value).startswith("Aliyun KMS error: ")
        assert not world.cloud.targets


async def test_a_role_may_be_assumed_with_the_identity_token_of_the_secret(tmp_path: Path) -> None:
    async with aliyun_world(tmp_path) as world:
        settings = oidc_settings(world)
        assert await world.get(world.kms(**settings)) == EXPECTED
        assert await world.get(world.kms(**settings)) == EXPECTED
        assert world.cloud.store.issued == 1
        assert set(world.cloud.targets) == {
            f"sts.{REGION}.aliyuncs.com:443",
            f"kms.{REGION}.aliyuncs.com:443",
        }
        with pytest.raises(DeniedError, match=r"AuthenticationFail\.OIDCToken\.Invalid"):
            await world.get(world.kms(**settings | {"id_token": "another"}))
        assert world.cloud.store.issued == 1, "a kept key is for its own token alone"


async def test_a_role_may_be_assumed_with_the_identity_token_of_this_guest(tmp_path: Path) -> None:
    token = tmp_path / "id-token"
    own = {
        "role_arn": ROLE_ARN,
        "oidc_provider_arn": PROVIDER_ARN,
        "oidc_token_file": str(token),
        "role_session_name": "pod-1",
    }
    settings = {"client_type": "oidc_ram", "region_id": REGION}
    async with aliyun_world(tmp_path, **own) as world:
        with pytest.raises(NotFoundError, match="no identity token"):
            await world.get(world.kms(**settings))
        for text in ("first", "second"):
            world.cloud.store.id_tokens[text] = ROLE_ARN
            token.write_text(f"{text}\n")
            assert await world.get(world.kms(**settings)) == EXPECTED
        assert world.cloud.store.issued == 2, "the file is read again for each use"
        assert "RoleSessionName=pod-1" in world.cloud.requests[0].query
    async with aliyun_world(tmp_path) as world:
        with pytest.raises(InvalidInputError, match="needs role_arn"):
            await world.get(world.kms(**settings))
        named = settings | {"role_arn": ROLE_ARN, "oidc_provider_arn": PROVIDER_ARN}
        with pytest.raises(InvalidInputError, match="needs id_token"):
            await world.get(world.kms(**named))


async def test_a_passing_failure_of_either_service_is_tried_again(tmp_path: Path) -> None:
    async with aliyun_world(tmp_path) as world:
        settings = oidc_settings(world)
        busy = b'{"Code":"Throttling.User"}'
        for action in ("AssumeRole", "GetSecretValue"):
            world.cloud.faults.add(Fault(path=action, status=400, body=busy, times=2))
        assert await world.get(world.kms(**settings)) == EXPECTED
        assert world.cloud.requests.count() == 6


async def test_the_gateways_certificate_must_be_one_that_the_system_trusts(tmp_path: Path) -> None:
    async with aliyun_world(tmp_path, extra_root_certificates=[]) as world:
        with pytest.raises(UnavailableError, match="CERTIFICATE_VERIFY_FAILED"):
            await world.get(world.kms(**sts_settings(world)))
        assert world.cloud.requests.count() == 0
