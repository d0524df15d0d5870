"""The dedicated gateway, against one that verifies every signature."""

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Final

import msgspec
import pytest

from cdh.config import CdhConfig
from cdh.kms.aliyun.service import AliyunKms, AliyunSealer
from cdh.kms.site import KmsSite
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
    UnsupportedError,
)
from guest.http import CertificateError
from guest.secret import Secret
from guest_simulator.cert import CertificateAuthority
from guest_simulator.faults import Fault
from guest_simulator.kms.aliyun.instance import instance_fault
from support.aliyun_world import (
    CLIENT_KEY_SETTINGS,
    INSTANCE,
    KEK_ID,
    KEY_ID,
    VECTORS,
    AliyunWorld,
    aliyun_world,
)

DEK: Final = Secret(bytes(range(32)))


async def seal(world: AliyunWorld, owner: Path) -> tuple[bytes, dict[str, object]]:
    given = VECTORS["client_key"]
    owner.mkdir()
    (owner / "key").write_text(given["document"])
    (owner / "password").write_text(given["password"])
    (owner / "ca").write_bytes(world.cloud.ca)
    sealer = AliyunSealer.open(
        world.site,
        {
            "kms_instance_id": INSTANCE,
            "client_key_file_path": owner / "key",
            "password_file_path": owner / "password",
            "cert_path": owner / "ca",
        },
    )
    assert sealer.settings == CLIENT_KEY_SETTINGS
    ciphertext, annotations = await sealer.encrypt(DEK, KEK_ID, Deadline.after(30))
    return ciphertext, dict(annotations)


async def test_what_an_owner_encrypts_a_guest_decrypts(tmp_path: Path) -> None:
    async with aliyun_world(tmp_path / "rt") as world:
        ciphertext, annotations = await seal(world, tmp_path / "owner")
        assert DEK.reveal() not in ciphertext
        plaintext = await world.kms().decrypt(ciphertext, KEK_ID, annotations, Deadline.after(30))
        assert plaintext == DEK
        assert set(world.cloud.targets) == {f"{INSTANCE}.cryptoservice.kms.aliyuncs.com:443"}
        assert len(world.cloud.targets) == 1, "the connection is used again"
        with pytest.raises(InvalidInputError, match="Aliyun KMS error: status code: 400"):
            await world.kms().decrypt(b"x" * 40, KEK_ID, annotations, Deadline.after(30))
        with pytest.raises(NotFoundError, match=r"error code: Forbidden\.KeyNotFound"):
            await world.kms().decrypt(ciphertext, "no-key", annotations, Deadline.after(30))
        with pytest.raises(InvalidInputError, match="Aliyun KMS error: iv is missing"):
            await world.kms().decrypt(ciphertext, KEK_ID, {}, Deadline.after(30))


async def test_a_secret_is_the_newest_version_or_the_one_that_is_meant(tmp_path: Path) -> None:
    async with aliyun_world(tmp_path) as world:
        kms = world.kms()
        assert await world.get(kms) == "the secret ✓".encode()
        assert await world.get(kms, version_id="v1") == b"the older value"
        assert await world.get(kms, version_stage="ACSPrevious") == b"the older value"
        with pytest.raises(NotFoundError, match="Aliyun KMS error: status code: 404"):
            await world.get(kms, "another")
        with pytest.raises(InvalidInputError, match="version_id"):
            await world.get(kms, version_id=3)


async def test_the_older_directory_counts_where_the_newer_lacks_a_file(tmp_path: Path) -> None:
    async with aliyun_world(tmp_path) as world:
        older = tmp_path / "kms-credential" / "aliyun"
        older.parent.mkdir()
        world.credentials.rename(older)
        assert await world.get(world.kms())
        world.credentials.mkdir()
        (world.credentials / f"password_{KEY_ID}.json").write_text("another")
        with pytest.raises(PlatformError, match="under this password"):
            await world.get(world.kms())


async def test_a_directory_of_ones_own_replaces_both(tmp_path: Path) -> None:
    other = tmp_path / "other"
    async with aliyun_world(tmp_path, in_guest_key_path=str(other)) as world:
        with pytest.raises(NotFoundError, match=str(other)):
            await world.get(world.kms())
        world.credentials.rename(other)
        assert await world.get(world.kms())


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        (f"clientKey_{KEY_ID}.json", None, "no credential file clientKey_"),
        (f"password_{KEY_ID}.json", None, "no credential file password_"),
        (f"PrivateKmsCA_{INSTANCE}.pem", None, "no credential file PrivateKmsCA_"),
        (f"clientKey_{KEY_ID}.json", b"{}", "client key"),
        (f"PrivateKmsCA_{INSTANCE}.pem", b"x", "no PEM certificate"),
        (
            f"PrivateKmsCA_{INSTANCE}.pem",
            b"-----BEGIN CERTIFICATE-----\nAA==\n-----END CERTIFICATE-----\n",
            "not readable PEM",
        ),
        (f"clientKey_{KEY_ID}.json", b" " * 300_000, "more than"),
    ],
)
async def test_a_credential_file_that_is_missing_or_wrong_is_named_and_nothing_is_sent(
    tmp_path: Path, name: str, content: bytes | None, words: str
) -> None:
    async with aliyun_world(tmp_path) as world:
        if content is None:
            (world.credentials / name).unlink()
        else:
            (world.credentials / name).write_bytes(content)
        with pytest.raises((NotFoundError, PlatformError), match=words) as caught:
            await world.get(world.kms())
        assert str(caught.value).startswith("Aliyun KMS error: ")
        assert not world.cloud.targets


async def test_an_instance_that_its_ca_does_not_vouch_for_is_asked_nothing(tmp_path: Path) -> None:
    async with aliyun_world(tmp_path, extra_root_certificates=[]) as world:
        assert await world.get(world.kms()), "the instance's CA suffices"
        foreign = CertificateAuthority.create("another").pem
        (world.credentials / f"PrivateKmsCA_{INSTANCE}.pem").write_bytes(foreign)
        with pytest.raises(CertificateError):
            await world.get(world.kms())
        assert world.cloud.requests.count() == 1


async def test_a_key_that_the_instance_does_not_know_is_refused_once(tmp_path: Path) -> None:
    async with aliyun_world(tmp_path) as world:
        world.cloud.store.clients.clear()
        with pytest.raises(UnauthenticatedError, match="AccessKeyNotFound") as caught:
            await world.get(world.kms())
        assert "Aliyun KMS error: status code: 403, request id: req-1" in str(caught.value)
        assert world.cloud.requests.count() == 1


async def test_another_keys_signature_is_found_out(tmp_path: Path) -> None:
    async with aliyun_world(tmp_path) as world:
        legacy = VECTORS["legacy"]
        document = json.loads(legacy["document"]) | {"KeyId": KEY_ID}
        (world.credentials / f"clientKey_{KEY_ID}.json").write_text(json.dumps(document))
        (world.credentials / f"password_{KEY_ID}.json").write_text(legacy["password"])
        with pytest.raises(UnauthenticatedError):
            await world.get(world.kms())


@pytest.mark.parametrize(
    "code", ["Rejected.Throttling", "ServiceUnavailableTemporary", "InternalFailure"]
)
async def test_a_passing_refusal_is_tried_three_times(tmp_path: Path, code: str) -> None:
    async with aliyun_world(tmp_path) as world:
        world.cloud.faults.add(instance_fault(500, code, times=2))
        assert await world.get(world.kms())
        assert world.cloud.requests.count() == 3
        world.cloud.faults.add(instance_fault(500, code))
        with pytest.raises(UnavailableError, match=code):
            await world.get(world.kms())
        assert world.cloud.requests.count() == 6


BROKEN: Final[tuple[tuple[Fault, type[GuestError]], ...]] = (
    (Fault(status=502, body=b"<html>proxy"), UnavailableError),
    (Fault(status=500, body=b"<html>proxy"), PeerError),
    (Fault(status=200, body=b"\xff\xff\xff"), PeerError),
    (Fault(status=200, body=b""), PeerError),
    (Fault(drop=True), UnavailableError),
    (Fault(cut_after=3), UnavailableError),
    (Fault(resize=-1), PeerError),
    (Fault(resize=2 * 1024 * 1024), GuestError),
    (Fault(status=302, headers={"Location": "https://evil.example/"}), PeerError),
)


@pytest.mark.parametrize(("fault", "kind"), BROKEN)
async def test_a_broken_answer_is_an_error_and_no_secret(
    tmp_path: Path, fault: Fault, kind: type[GuestError]
) -> None:
    async with aliyun_world(tmp_path) as world:
        world.cloud.faults.add(fault)
        with pytest.raises(kind) as caught:
            await world.get(world.kms())
        assert "the secret" not in " ".join(caught.value.causes())


async def test_a_silent_gateway_costs_the_callers_deadline_and_no_more(tmp_path: Path) -> None:
    async with aliyun_world(tmp_path) as world:
        assert await world.get(world.kms())
        world.cloud.faults.add(Fault(delay=300))
        with pytest.raises(DeadlineError):
            await world.get(world.kms(), seconds=1.5)


async def test_fifty_secrets_at_a_time_share_the_pool(tmp_path: Path) -> None:
    async with aliyun_world(tmp_path) as world:
        async with asyncio.TaskGroup() as tasks:
            calls = [tasks.create_task(world.get(world.kms()), name=f"{i}") for i in range(50)]
        assert {call.result() for call in calls} == {"the secret ✓".encode()}
        assert len(world.cloud.targets) <= 32


@pytest.mark.parametrize(
    "settings",
    [
        {"client_type": "sts_token", "token_path": "/x", "region_id": "r"},
        {"client_type": "ecs_ram_role"},
        {"client_type": "oidc_ram", "region_id": "r"},
    ],
)
async def test_only_a_client_key_decrypts(tmp_path: Path, settings: dict[str, object]) -> None:
    async with aliyun_world(tmp_path) as world:
        with pytest.raises(UnsupportedError, match="cannot decrypt"):
            await world.kms(**settings).decrypt(b"x", "k", {"iv": "AA=="}, Deadline.after(5))


async def test_settings_that_are_wrong_are_told_when_the_client_is_opened(tmp_path: Path) -> None:
    async with aliyun_world(tmp_path) as world:
        opened: Callable[..., AliyunKms] = AliyunKms.open
        with pytest.raises(InvalidInputError, match="Aliyun KMS error: client type not exist"):
            opened(world.site, {})


def test_an_instance_id_of_the_command_line_that_is_none_is_told_before_files_are_read(
    tmp_path: Path,
) -> None:
    site = KmsSite(msgspec.convert({"kbc": {"name": "offline_fs_kbc"}}, CdhConfig), tmp_path)
    with pytest.raises(InvalidInputError, match="kms_instance_id"):
        AliyunSealer.open(site, {"kms_instance_id": "../x"})


async def test_a_closed_site_opens_no_more_connections(tmp_path: Path) -> None:
    async with aliyun_world(tmp_path) as world:
        assert await world.get(world.kms())
        await world.site.close()
        with pytest.raises(UnavailableError, match="closing"):
            await world.get(world.kms())
