"""Evidence of a guest that has a TPM and no TEE, from swtpm."""

import asyncio
import base64
import hashlib
import json
import threading
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import load_der_public_key

from attestation_agent.attesters import detect
from attestation_agent.attesters.base import Attester
from attestation_agent.evidence import encode_primary
from guest.deadline import Deadline
from guest.errors import LimitError, PlatformError
from guest_simulator.kbs.evidence import InitData
from guest_simulator.tpm import wire
from guest_simulator.tpm.relay import TpmFault
from guest_simulator.tpm.verifier import verify_tpm
from support.tpm_world import TpmGuest, tpm_guest

pytestmark = [pytest.mark.swtpm]

DATA = bytes(range(48))


async def evidence_of(attester: Attester, data: bytes = DATA) -> dict[str, Any]:
    """As it leaves."""
    value = await attester.evidence(data, Deadline.after(30))
    tree: dict[str, Any] = json.loads(encode_primary(value))
    return tree


@pytest.mark.spec("attesters", 30)
async def test_evidence_verifies_binds_32_bytes_and_carries_the_key(short_tmp: Path) -> None:
    with tpm_guest(short_tmp) as guest:
        guest.extend(16, bytes(range(32)))
        evidence = await evidence_of(detect(guest.hints()))
    assert list(evidence) == ["tpm_quote", "ak_public"]
    assert sorted(evidence["tpm_quote"]) == ["message", "pcrs", "signature"]
    verified = verify_tpm(evidence, DATA, None)
    assert verified.report_data == DATA[:32].hex()
    assert verified.claims["pcr16"] == hashlib.sha256(bytes(32) + bytes(range(32))).hexdigest()
    spki = base64.b64decode(evidence["ak_public"], validate=True)
    assert len(spki) == 294
    assert len(base64.b64decode(evidence["tpm_quote"]["signature"])) == 262
    assert len(base64.b64decode(evidence["tpm_quote"]["message"])) == 145
    public = load_der_public_key(spki)
    assert isinstance(public, rsa.RSAPublicKey)
    assert public.public_numbers().e == 65537


async def test_the_manufacturers_certificate_is_carried_and_one_that_is_locked_is_not(
    short_tmp: Path, caplog: pytest.LogCaptureFixture
) -> None:
    from attestation_agent.hardware.tpm_thread import Tpm

    certificate = b"\x30\x82\x05\x00" + bytes(1280)
    with tpm_guest(short_tmp) as guest:
        await Tpm(guest.path).run(
            lambda session: session.write_index(0x01C0_0002, certificate), Deadline.after(30)
        )
        attester = detect(guest.hints())
        for _ in range(2):
            evidence = await evidence_of(attester)
            assert base64.b64decode(evidence["ek_cert"]) == certificate
            verify_tpm(evidence, DATA, None)
        assert guest.relay.codes().count(wire.NV_READ) == 2  # the first time, in two pieces
        locked = TpmFault(code=wire.NV_READ, answer=wire.response(code=0x149))
        guest.relay.faults.append(locked)
        assert "ek_cert" not in await evidence_of(detect(guest.hints()))
    assert "the TPM's certificate is left out" in caplog.messages


async def test_short_report_data_is_padded_with_zeros(short_tmp: Path) -> None:
    with tpm_guest(short_tmp) as guest:
        attester = detect(guest.hints())
        assert verify_tpm(await evidence_of(attester, b"abc"), b"abc", None).report_data == (
            b"abc".ljust(32, b"\0").hex()
        )
        assert verify_tpm(await evidence_of(attester, b""), b"", None).report_data == "00" * 32


@pytest.mark.spec("attesters", 31)
async def test_an_elliptic_curve_key_is_refused(short_tmp: Path) -> None:
    with tpm_guest(short_tmp, kind=wire.ECC) as guest:
        with pytest.raises(PlatformError, match=r"^AK is not an RSA key$"):
            await detect(guest.hints()).evidence(DATA, Deadline.after(30))


async def test_a_key_that_is_missing_is_said_at_start_and_named_in_the_error(
    short_tmp: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with tpm_guest(short_tmp, handle=None) as guest:
        attester = detect(guest.hints(tpm_ak_handle="0x81010005"))
        assert "the TPM has no attestation key: evidence will fail" in caplog.messages
        with pytest.raises(PlatformError, match=r"ENOENT .no key at 0x81010005"):
            await attester.evidence(DATA, Deadline.after(30))


async def test_an_extend_between_reading_and_quote_is_noticed_and_read_anew(
    short_tmp: Path,
) -> None:
    with tpm_guest(short_tmp) as guest:
        attester = detect(guest.hints())
        race = TpmFault(
            code=wire.QUOTE, times=2, before=lambda ask: ask(wire.extend(16, bytes(32)))
        )
        guest.relay.faults.append(race)
        verify_tpm(await evidence_of(attester), DATA, None)
        assert guest.relay.codes().count(wire.QUOTE) == 3


async def test_registers_that_change_all_the_time_are_an_error(short_tmp: Path) -> None:
    with tpm_guest(short_tmp) as guest:
        attester = detect(guest.hints())
        guest.relay.faults.append(
            TpmFault(code=wire.QUOTE, before=lambda ask: ask(wire.extend(16, bytes(32))))
        )
        with pytest.raises(PlatformError, match=r"EAGAIN .the registers change all the time"):
            await attester.evidence(DATA, Deadline.after(30))
        assert guest.relay.codes().count(wire.QUOTE) == 5


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda answer: wire.response(code=0x101), "EIO .the TPM gave 0x101"),
        (lambda answer: wire.response(), "EIO .the TPM gave"),
        (lambda answer: wire.response(bytes(4097)), "EBADMSG .a response that is none"),
        (lambda answer: b"\xff" * 64, "EBADMSG .a response that is none"),
        (lambda answer: answer.replace(DATA[:32], bytes(32)), "it binds another nonce"),
        (lambda answer: answer.replace(b"\xff\x54\x43\x47", b"abcd"), "the TPM gave|no quote"),
    ],
)
async def test_a_quote_that_is_none_is_an_error_that_names_path_and_command(
    short_tmp: Path, change: Any, words: str
) -> None:
    with tpm_guest(short_tmp) as guest:
        attester = detect(guest.hints())
        guest.relay.faults.append(TpmFault(code=wire.QUOTE, change=change))
        with pytest.raises(PlatformError, match=words) as caught:
            await attester.evidence(DATA, Deadline.after(5))
        assert f"{guest.path}: TPM2_Quote: " in str(caught.value)


async def test_a_tpm_that_hangs_ends_with_the_deadline_and_the_next_call_works(
    short_tmp: Path,
) -> None:
    with tpm_guest(short_tmp) as guest:
        attester = detect(guest.hints())
        released = threading.Event()
        guest.relay.faults.append(TpmFault(code=wire.QUOTE, block=released, times=1))
        with pytest.raises(PlatformError, match="TPM2_Quote: ETIMEDOUT"):
            await attester.evidence(DATA, Deadline.after(0.5))
        released.set()
        verify_tpm(await evidence_of(attester), DATA, None)


async def test_a_tpm_that_hangs_up_is_an_error(short_tmp: Path) -> None:
    with tpm_guest(short_tmp) as guest:
        attester = detect(guest.hints())
        guest.relay.faults.append(TpmFault(code=wire.PCR_READ, drop=True))
        with pytest.raises(PlatformError, match=r"TPM2_PCR_Read: EBADMSG .response of 0 bytes"):
            await attester.evidence(DATA, Deadline.after(5))


async def test_a_tpm_that_is_gone_is_an_error(short_tmp: Path) -> None:
    with tpm_guest(short_tmp) as guest:
        attester = detect(guest.hints())
        path = guest.path
    with pytest.raises(PlatformError, match=f"{path}: open: ENOENT"):
        await attester.evidence(DATA, Deadline.after(5))


def log_path(guest: TpmGuest) -> Path:
    """Of the agent's log in the guest's tree."""
    return guest.root / "run" / "attestation-agent" / "eventlog"


async def test_a_log_longer_than_evidence_takes_is_left_out(short_tmp: Path) -> None:
    with tpm_guest(short_tmp) as guest:
        log_path(guest).parent.mkdir(parents=True)
        log_path(guest).write_bytes(bytes(1024 * 1024 + 1))
        assert "cc_eventlog" not in await evidence_of(detect(guest.hints()))


async def test_a_log_that_explains_nothing_is_left_out_and_an_empty_one_is_not(
    short_tmp: Path,
) -> None:
    with tpm_guest(short_tmp) as guest:
        attester = detect(guest.hints())
        log_path(guest).parent.mkdir(parents=True)
        log_path(guest).write_bytes(b"garbage")
        assert "cc_eventlog" not in await evidence_of(attester)
        log_path(guest).write_bytes(b"")
        log = base64.b64decode((await evidence_of(attester))["cc_eventlog"])
        assert log[32:48] == b"Spec ID Event03\0"
        assert log.endswith(b"\xff" * 8)


async def test_init_data_is_verified_by_register_8(short_tmp: Path) -> None:
    with tpm_guest(short_tmp) as guest:
        attester = detect(guest.hints())
        assert attester.init_data is not None
        digest = hashlib.sha256(b"init data").digest()
        await attester.init_data.bind(digest, Deadline.after(10))
        evidence = await evidence_of(attester)
        verify_tpm(evidence, DATA, InitData(digest=digest, claims={}))


async def test_more_callers_than_may_wait_are_refused(short_tmp: Path) -> None:
    with tpm_guest(short_tmp) as guest:
        attester = detect(guest.hints())
        released = threading.Event()
        guest.relay.faults.append(TpmFault(code=wire.QUOTE, block=released, times=1))
        async with asyncio.TaskGroup() as group:
            calls = [
                group.create_task(attester.evidence(bytes((n,)), Deadline.after(60)))
                for n in range(33)
            ]
            await asyncio.sleep(0)
            with pytest.raises(LimitError):
                await attester.evidence(b"", Deadline.after(60))
            released.set()
        for n, call in enumerate(calls):
            value: Any = call.result()
            verify_tpm(value, bytes((n,)), None)


async def test_a_slow_tpm_never_blocks_the_loop(short_tmp: Path) -> None:
    with tpm_guest(short_tmp) as guest:
        attester = detect(guest.hints())
        await evidence_of(attester)  # what is loaded at first use is loaded
        slow = TpmFault(code=wire.QUOTE, before=lambda ask: threading.Event().wait(2), times=1)
        guest.relay.faults.append(slow)
        loop = asyncio.get_running_loop()
        longest = 0.0
        task = asyncio.ensure_future(evidence_of(attester))
        while not task.done():
            before = loop.time()
            await asyncio.sleep(0)
            longest = max(longest, loop.time() - before)
            await asyncio.sleep(0.001)
        verify_tpm(task.result(), DATA, None)
        assert slow.hits == 1
        assert longest < 1
