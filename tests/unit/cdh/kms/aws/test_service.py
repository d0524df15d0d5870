"""AWS KMS and Secrets Manager, against ones that verify every signature."""

import json
from datetime import datetime
from pathlib import Path

import pytest

from cdh.kms.aws import api
from cdh.kms.aws.service import AwsSealer
from cdh.kms.aws.settings import AwsCredentials, SecretVersion
from guest.deadline import Deadline
from guest.errors import (
    DeadlineError,
    GuestError,
    InvalidInputError,
    NotFoundError,
    PeerError,
    PlatformError,
    UnauthenticatedError,
    UnavailableError,
)
from guest.secret import Secret
from guest_simulator.faults import Fault
from guest_simulator.kms.aws.store import AccessKey
from support.aws_world import CREDENTIAL, KEK_ID, REGION, VECTORS, aws_world

BUSY = b'{"__type":"ThrottlingException","message":"Rate exceeded"}'


async def test_what_an_owner_seals_a_guest_opens(tmp_path: Path) -> None:
    async with aws_world(tmp_path) as world:
        sealed = await world.seal(b"data key")
        kms = world.kms()
        opened = await kms.decrypt(sealed, KEK_ID, {"encryption_context": {}}, Deadline.after(30))
        assert opened.reveal() == b"data key"
        assert world.sealer().settings == {"region": REGION}
        assert set(world.cloud.targets) == {f"kms.{REGION}.amazonaws.com:443"}
        with pytest.raises(InvalidInputError, match="InvalidCiphertextException"):
            await kms.decrypt(
                sealed, KEK_ID, {"encryption_context": {"a": "b"}}, Deadline.after(30)
            )
        with pytest.raises(NotFoundError, match=r"^AWS KMS error: .*NotFoundException"):
            await kms.decrypt(sealed, "another", {}, Deadline.after(30))
        with pytest.raises(InvalidInputError, match=r"^AWS KMS error: encryption_context"):
            await kms.decrypt(sealed, KEK_ID, {"encryption_context": "x"}, Deadline.after(30))


async def test_secrets_are_texts_and_bytes_of_the_version_that_is_meant(tmp_path: Path) -> None:
    async with aws_world(tmp_path) as world:
        kms = world.kms()
        assert await world.get(kms) == "the secret ✓".encode()
        assert await world.get(kms, version_id="", version_stage="") == "the secret ✓".encode()
        assert await world.get(kms, version_stage="AWSPREVIOUS") == b"the older value"
        assert await world.get(kms, version_id=f"{1:032x}") == b"the older value"
        assert await world.get(kms, "binary") == b"\0\xffbytes"
        with pytest.raises(NotFoundError, match="ResourceNotFoundException"):
            await world.get(kms, "another")
        assert set(world.cloud.targets) == {f"secretsmanager.{REGION}.amazonaws.com:443"}


async def test_chinas_regions_are_asked_at_their_own_hosts(tmp_path: Path) -> None:
    async with aws_world(tmp_path) as world:
        assert await world.get(world.kms("cn-north-1")) == "the secret ✓".encode()
        assert set(world.cloud.targets) == {"secretsmanager.cn-north-1.amazonaws.com.cn:443"}


async def test_a_key_without_a_token_signs_too(tmp_path: Path) -> None:
    async with aws_world(tmp_path) as world:
        world.cloud.store.access_keys["AKID"] = AccessKey(secret="long-lived")
        world.write(access_key_id="AKID", secret_access_key="long-lived", session_token=None)
        assert await world.get(world.kms()) == "the secret ✓".encode()


@pytest.mark.spec("confidential-data-hub", 44)
async def test_credentials_come_from_the_file_alone_and_the_published_requests_are_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, request in (
        ("decrypt", api.decrypt_request(b"kms-ciphertext-blob", KEK_ID, {})),
        ("get_secret", api.get_secret_request("my/secret/name", SecretVersion(stage="AWSCURRENT"))),
    ):
        given = VECTORS[name]
        token = given.get("session_token")
        key = AwsCredentials(
            key_id=given["access_key_id"],
            secret=Secret(VECTORS["secret_access_key"].encode()),
            token=None if token is None else Secret(token.encode()),
        )
        now = datetime.fromisoformat(VECTORS["now"])
        headers = dict(request.headers(VECTORS["region"], key, now))
        assert (request.body.decode(), headers["authorization"]) == (
            given["body"],
            given["authorization"],
        )
    home = tmp_path / "home"
    (home / ".aws").mkdir(parents=True)
    planted = "[default]\naws_access_key_id = AKPLANTED\naws_secret_access_key = planted\n"
    (home / ".aws" / "credentials").write_text(planted)
    (home / ".aws" / "config").write_text("[default]\nendpoint_url = http://127.0.0.1:1\n")
    for name, value in {
        "HOME": str(home),
        "AWS_ACCESS_KEY_ID": "AKPLANTED",
        "AWS_SECRET_ACCESS_KEY": "planted",
        "AWS_SESSION_TOKEN": "planted",
        "AWS_PROFILE": "default",
        "AWS_REGION": "eu-west-1",
        "AWS_DEFAULT_REGION": "eu-west-1",
        "AWS_ENDPOINT_URL": "http://127.0.0.1:1",
        "AWS_CA_BUNDLE": "/nonexistent",
        "AWS_WEB_IDENTITY_TOKEN_FILE": str(home / "token"),
        "AWS_CONTAINER_CREDENTIALS_FULL_URI": "http://127.0.0.1:1",
    }.items():
        monkeypatch.setenv(name, value)
    async with aws_world(tmp_path / "rt") as world:
        world.cloud.store.access_keys["AKPLANTED"] = AccessKey(secret="planted", token="planted")
        assert await world.get(world.kms()) == "the secret ✓".encode()
        assert await world.get(world.kms(), "binary") == b"\0\xffbytes"
        assert world.cloud.targets[0] == f"secretsmanager.{REGION}.amazonaws.com:443"
        asked = len(world.cloud.requests)
        (world.credentials / "credential.json").unlink()
        with pytest.raises(NotFoundError, match=r"no credential file credential\.json in"):
            await world.get(world.kms())
        assert len(world.cloud.requests) == asked, "without the file nobody is asked"


async def test_the_directory_of_the_configuration_counts_alone(tmp_path: Path) -> None:
    async with aws_world(tmp_path / "rt", in_guest_key_path=str(tmp_path)) as world:
        with pytest.raises(NotFoundError, match=str(tmp_path)):
            await world.get(world.kms())
        (tmp_path / "credential.json").write_text(json.dumps(CREDENTIAL))
        assert await world.get(world.kms()) == "the secret ✓".encode()


async def test_a_wrong_key_is_refused_without_token_or_signature_in_the_error(
    tmp_path: Path,
) -> None:
    async with aws_world(tmp_path) as world:
        world.write(secret_access_key="wrong")
        with pytest.raises(UnauthenticatedError, match="InvalidSignatureException") as caught:
            await world.get(world.kms())
        assert "canary" not in " ".join(caught.value.causes())
        assert world.cloud.requests.count() == 1


async def test_a_credential_file_that_is_wrong_is_named_and_not_shown(tmp_path: Path) -> None:
    async with aws_world(tmp_path) as world:
        for text in ('{"canary', '{"access_key_id":"canary"}', "canary"):
            (world.credentials / "credential.json").write_text(text)
            with pytest.raises(
                PlatformError, match=r"^AWS KMS error: credential\.json: "
            ) as caught:
                await world.get(world.kms())
            assert "canary" not in " ".join(caught.value.causes())
        assert not world.cloud.targets


async def test_a_passing_failure_is_tried_again_three_times_in_all(tmp_path: Path) -> None:
    async with aws_world(tmp_path) as world:
        world.cloud.faults.add(Fault(status=400, body=BUSY, times=2))
        assert await world.get(world.kms()) == "the secret ✓".encode()
        world.cloud.faults.add(Fault(status=400, body=BUSY, times=9))
        with pytest.raises(UnavailableError, match="ThrottlingException"):
            await world.get(world.kms())
        assert world.cloud.requests.count() == 6


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        (Fault(cut_after=10, times=9), UnavailableError),
        (Fault(drop=True, times=9), UnavailableError),
        (Fault(body=b"{}"), PeerError),
        (Fault(body=b"x" * (1 << 21)), GuestError),
    ],
)
async def test_an_answer_that_is_none_is_an_error_of_ours(
    tmp_path: Path, fault: Fault, kind: type[GuestError]
) -> None:
    async with aws_world(tmp_path) as world:
        world.cloud.faults.add(fault)
        with pytest.raises(kind, match=r"^AWS KMS error: "):
            await world.get(world.kms())


async def test_a_call_ends_with_its_deadline(tmp_path: Path) -> None:
    async with aws_world(tmp_path) as world:
        await world.get(world.kms())
        world.cloud.faults.add(Fault(delay=300))
        with pytest.raises(DeadlineError):
            await world.get(world.kms(), seconds=0.3)


async def test_a_certificate_that_nobody_vouches_for_is_refused(tmp_path: Path) -> None:
    async with aws_world(tmp_path, extra_root_certificates=[]) as world:
        with pytest.raises(UnavailableError, match="CERTIFICATE_VERIFY_FAILED"):
            await world.get(world.kms())
        assert world.cloud.requests.count() == 0


async def test_a_region_or_file_of_the_owner_that_is_wrong_is_refused(tmp_path: Path) -> None:
    async with aws_world(tmp_path) as world:
        file = world.credentials / "credential.json"
        for region in ("", "a.b", "../x"):
            with pytest.raises(InvalidInputError, match="region"):
                world.kms(region)
            with pytest.raises(InvalidInputError, match="region"):
                AwsSealer.open(world.site, {"region": region, "credential_file_path": file})
        with pytest.raises(InvalidInputError, match="cannot be read"):
            AwsSealer.open(world.site, {"region": REGION, "credential_file_path": tmp_path / "no"})
        file.write_text("{}")
        with pytest.raises(PlatformError, match=r"credential\.json: .*access_key_id"):
            AwsSealer.open(world.site, {"region": REGION, "credential_file_path": file})
