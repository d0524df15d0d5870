"""An eHSM-KMS, against one that verifies every signature."""

from pathlib import Path

import pytest

from cdh.kms.ehsm.service import EhsmSealer
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
from guest_simulator.faults import Fault
from support.ehsm_world import APP_ID, ehsm_world

BUSY = b'{"code":503,"message":"busy","result":{}}'


async def test_what_an_owner_seals_a_guest_opens(tmp_path: Path) -> None:
    async with ehsm_world(tmp_path) as world:
        sealed = await world.seal(b"data key")
        assert sealed.isascii(), "the service's own text is what is stored"
        assert await world.decrypt(world.kms(), sealed) == b"data key"
        slash = world.kms(endpoint=f"{world.server.endpoint}/")
        assert await world.decrypt(slash, sealed) == b"data key"
        assert world.sealer().settings == {"app_id": APP_ID, "endpoint": world.server.endpoint}
        with pytest.raises(InvalidInputError, match=r"^eHSM-KMS error: .*keyid not found"):
            await world.decrypt(world.kms(), sealed, "another")
        with pytest.raises(InvalidInputError, match=r"^eHSM-KMS error: encrypted key"):
            await world.decrypt(world.kms(), b"\xff")
        with pytest.raises(PeerError, match="decrypt failed"):
            await world.decrypt(world.kms(), sealed[:-4])


async def test_credentials_are_those_of_the_application_that_the_secret_names(
    tmp_path: Path,
) -> None:
    async with ehsm_world(tmp_path) as world:
        with pytest.raises(NotFoundError, match=r"no credential file credential_other\.json in"):
            await world.decrypt(world.kms(app_id="other"), b"x")
        for text in ("{}", '{"AppId":"a","ApiKey":7}', "canary"):
            world.file.write_text(text)
            with pytest.raises(PlatformError, match=rf"credential_{APP_ID}\.json: ") as caught:
                await world.decrypt(world.kms(), b"x")
            assert "canary" not in " ".join(caught.value.causes())
        assert world.server.requests.count() == 0


async def test_a_wrong_key_is_refused_without_it_in_the_error(tmp_path: Path) -> None:
    async with ehsm_world(tmp_path) as world:
        world.server.apps[APP_ID] = "another"
        with pytest.raises(UnauthenticatedError, match="sign error") as caught:
            await world.decrypt(world.kms(), b"x")
        assert "canary" not in " ".join(caught.value.causes())
        assert world.server.requests.count() == 1


async def test_a_passing_failure_is_tried_again_with_a_nonce_of_its_own(tmp_path: Path) -> None:
    async with ehsm_world(tmp_path) as world:
        sealed = await world.seal(b"data key")
        world.server.faults.add(Fault(body=BUSY, times=2))
        assert await world.decrypt(world.kms(), sealed) == b"data key"
        assert (world.server.requests.count(), len(world.server.nonces)) == (4, 4)


async def test_a_certificate_that_nobody_vouches_for_is_refused(tmp_path: Path) -> None:
    async with ehsm_world(tmp_path, extra_root_certificates=[]) as world:
        with pytest.raises(UnavailableError, match="CERTIFICATE_VERIFY_FAILED"):
            await world.decrypt(world.kms(), b"x")
        assert world.server.requests.count() == 0


@pytest.mark.parametrize(
    "fault", [Fault(drop=True, times=9), Fault(body=b"<html>"), Fault(status=502, times=9)]
)
async def test_an_answer_that_is_none_is_an_error_of_ours(tmp_path: Path, fault: Fault) -> None:
    async with ehsm_world(tmp_path) as world:
        world.server.faults.add(fault)
        with pytest.raises(GuestError, match=r"^eHSM-KMS error: "):
            await world.decrypt(world.kms(), b"x")


async def test_a_call_ends_with_its_deadline(tmp_path: Path) -> None:
    async with ehsm_world(tmp_path) as world:
        sealed = await world.seal(b"x")
        world.server.faults.add(Fault(delay=300))
        with pytest.raises(DeadlineError):
            await world.decrypt(world.kms(), sealed, seconds=0.3)


async def test_what_the_owner_names_is_checked(tmp_path: Path) -> None:
    async with ehsm_world(tmp_path) as world:
        for endpoint in ("", "http://h", "https://u@h"):
            flags = {"endpoint": endpoint, "credential_file_path": world.file}
            with pytest.raises(InvalidInputError, match="endpoint"):
                EhsmSealer.open(world.site, flags)
        flags = {"endpoint": "https://h", "credential_file_path": tmp_path / "none"}
        with pytest.raises(InvalidInputError, match="cannot be read"):
            EhsmSealer.open(world.site, flags)
