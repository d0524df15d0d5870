"""Evidence of Azure's confidential machines: swtpm, a paravisor and a metadata service."""

import asyncio
import base64
import hashlib
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from attestation_agent.attesters import detect
from attestation_agent.attesters.base import Attester
from attestation_agent.evidence import encode_primary
from guest.deadline import Deadline
from guest.errors import InvalidInputError, PeerError, PlatformError, UnavailableError
from guest.retry import Backoff
from guest.tee import Tee
from guest_simulator.faults import Fault
from guest_simulator.kbs.evidence import InitData
from guest_simulator.tpm import wire
from guest_simulator.tpm.azure_metadata import AzureMetadata
from guest_simulator.tpm.paravisor import REQUEST_INDEX, SNP, TDX, Paravisor
from guest_simulator.tpm.relay import TpmFault
from guest_simulator.tpm.verifier import AzureVerifier
from support.tdx_world import parse_quote, platform
from support.tpm_world import TpmGuest, azure_guest, chip

az_vtpm = pytest.importorskip("attestation_agent.attesters.az_vtpm", exc_type=ImportError)

pytestmark = [pytest.mark.swtpm]

DATA = bytes(range(48))
MEMBERS = {SNP: "vcek", TDX: "td_quote"}
TEES = {SNP: Tee.AZ_SNP_VTPM, TDX: Tee.AZ_TDX_VTPM}


def check_td(report: bytes, quote: bytes) -> None:
    """The quote is this platform's, over the same report data."""
    parsed = parse_quote(quote, platform().root)
    assert parsed.report_data == report[128:192]


def check_snp(report: bytes, vcek: bytes) -> None:
    """The certificate's key signed the report."""
    key = x509.load_der_x509_certificate(vcek).public_key()
    assert isinstance(key, ec.EllipticCurvePublicKey)
    r, s = (int.from_bytes(report[at : at + 72], "little") for at in (672, 744))
    key.verify(encode_dss_signature(r, s), report[:672], ec.ECDSA(hashes.SHA384()))


VERIFIERS = {
    SNP: AzureVerifier(member="vcek", report_data_at=80, check_hardware=check_snp),
    TDX: AzureVerifier(member="td_quote", report_data_at=128, check_hardware=check_td),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """A machine of Azure."""

    guest: TpmGuest
    paravisor: Paravisor
    metadata: AzureMetadata

    def attester(self) -> Attester:
        """As detection finds it."""
        return detect(self.guest.hints(azure_metadata=self.metadata.url))


@asynccontextmanager
async def world(root: Path, kind: int) -> AsyncIterator[World]:
    """A machine with its metadata service."""
    service = AzureMetadata(
        quote=platform().quote if kind == TDX else None,
        certificate=chip().pem if kind == SNP else None,
    )
    with azure_guest(root, kind) as (guest, paravisor):
        async with service:
            yield World(guest=guest, paravisor=paravisor, metadata=service)


async def evidence_of(attester: Attester, data: bytes = DATA) -> dict[str, Any]:
    """As it leaves."""
    value = await attester.evidence(data, Deadline.after(40))
    tree: dict[str, Any] = json.loads(encode_primary(value))
    return tree


both = pytest.mark.parametrize("kind", [SNP, TDX], ids=["snp", "tdx"])


@both
@pytest.mark.spec("attesters", 35)
async def test_evidence_verifies_and_has_the_forms_of_version_2(short_tmp: Path, kind: int) -> None:
    async with world(short_tmp, kind) as here:
        attester = here.attester()
        assert attester.tee is TEES[kind]
        evidence = await evidence_of(attester)
    member = MEMBERS[kind]
    assert list(evidence) == ["version", "tpm_quote", "hcl_report", member]
    assert evidence["version"] == 2
    for name in ("hcl_report", member):
        text = evidence[name]
        assert len(text) % 4 == 0
        assert base64.urlsafe_b64encode(base64.urlsafe_b64decode(text)).decode() == text
        assert not set(text) & set("+/")
    assert len(bytes.fromhex(evidence["tpm_quote"]["signature"])) == 256
    assert bytes.fromhex(evidence["tpm_quote"]["message"])[:4] == b"\xffTCG"
    assert [len(value) for value in evidence["tpm_quote"]["pcrs"]] == [64] * 24
    verified = VERIFIERS[kind](evidence, DATA, None)
    assert verified.report_data == DATA.hex()


@both
@pytest.mark.parametrize("length", [1, 32, 64])
async def test_report_data_of_every_length_is_bound_unmodified(
    short_tmp: Path, kind: int, length: int
) -> None:
    async with world(short_tmp, kind) as here:
        VERIFIERS[kind](await evidence_of(here.attester(), b"r" * length), b"r" * length, None)


@pytest.mark.parametrize("length", [0, 65])
async def test_report_data_that_cannot_be_bound_is_refused_before_the_tpm_is_asked(
    short_tmp: Path, length: int
) -> None:
    async with world(short_tmp, TDX) as here:
        attester = here.attester()
        before = len(here.guest.relay.commands)
        with pytest.raises(InvalidInputError, match=f"report data of {length} bytes"):
            await attester.evidence(bytes(length), Deadline.after(5))
        assert len(here.guest.relay.commands) == before


@pytest.mark.spec("attesters", 34)
async def test_the_index_is_defined_anew_for_another_size_and_the_report_waited_for(
    short_tmp: Path,
) -> None:
    async with world(short_tmp, TDX) as here:
        attester = here.attester()
        here.paravisor.renewals = 3
        codes = here.guest.relay.codes
        VERIFIERS[TDX](await evidence_of(attester, b"a" * 48), b"a" * 48, None)
        assert (codes().count(wire.DEFINE_SPACE), codes().count(wire.UNDEFINE_SPACE)) == (1, 0)
        VERIFIERS[TDX](await evidence_of(attester, b"b" * 48), b"b" * 48, None)
        assert (codes().count(wire.DEFINE_SPACE), codes().count(wire.UNDEFINE_SPACE)) == (1, 0)
        VERIFIERS[TDX](await evidence_of(attester, b"c" * 64), b"c" * 64, None)
        assert (codes().count(wire.DEFINE_SPACE), codes().count(wire.UNDEFINE_SPACE)) == (2, 1)


async def test_a_report_that_is_never_renewed_is_an_error(
    short_tmp: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(az_vtpm, "RENEWAL_SECONDS", 0.6)
    async with world(short_tmp, TDX) as here:
        attester = here.attester()
        here.paravisor.renewals = 1_000_000
        with pytest.raises(PlatformError, match=r"ETIMEDOUT .the paravisor did not renew"):
            await attester.evidence(DATA, Deadline.after(30))


@pytest.mark.parametrize(
    "transform",
    [
        lambda report: report[:1230],
        lambda report: report[:1300] + b"\0" * (len(report) - 1300),
        lambda report: report[:200] + b"\xff" + report[201:],
        lambda report: b"ALCH" + report[4:],
    ],
    ids=["cut", "torn", "other hardware report", "no magic"],
)
async def test_a_report_that_does_not_hold_together_never_leaves(
    short_tmp: Path, monkeypatch: pytest.MonkeyPatch, transform: Callable[[bytes], bytes]
) -> None:
    monkeypatch.setattr(az_vtpm, "RENEWAL_SECONDS", 0.6)
    async with world(short_tmp, TDX) as here:
        attester = here.attester()
        here.paravisor.transform = transform
        with pytest.raises(PlatformError, match="the paravisor did not renew"):
            await attester.evidence(DATA, Deadline.after(30))


@both
@pytest.mark.spec("attesters", 36)
async def test_the_metadata_service_is_asked_with_its_header_and_without_proxies(
    short_tmp: Path, kind: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    async with world(short_tmp, kind) as here:
        await evidence_of(here.attester())
        (request,) = here.metadata.requests
        assert request.status == 200
        assert "x-forwarded-for" not in request.headers
    expected = {SNP: ("GET", "/metadata/THIM/amd/certification"), TDX: ("POST", "/acc/tdquote")}
    assert (request.method, request.path) == expected[kind]


async def test_a_service_that_wants_the_url_alphabet_gets_it(short_tmp: Path) -> None:
    async with world(short_tmp, TDX) as here:
        here.metadata.url_alphabet = True
        VERIFIERS[TDX](await evidence_of(here.attester()), DATA, None)
        assert [request.status for request in here.metadata.requests] == [400, 200]


@both
@pytest.mark.parametrize("status", [429, 503])
async def test_a_service_that_is_busy_is_asked_again(
    short_tmp: Path, kind: int, status: int
) -> None:
    async with world(short_tmp, kind) as here:
        here.metadata.faults.add(Fault(path="/", status=status, times=1))
        VERIFIERS[kind](await evidence_of(here.attester()), DATA, None)


async def test_a_service_that_refuses_or_lies_fails_the_call(
    short_tmp: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from attestation_agent.hardware import azure_metadata

    monkeypatch.setattr(azure_metadata, "BACKOFF", Backoff(first=0.01, attempts=2))
    async with world(short_tmp, TDX) as here:
        attester = here.attester()
        here.metadata.faults.add(Fault(path="/", status=404, times=1))
        with pytest.raises(PeerError, match="/acc/tdquote answers 404"):
            await attester.evidence(DATA, Deadline.after(30))
        here.metadata.faults.add(Fault(path="/", status=500, times=2))
        with pytest.raises(UnavailableError, match="answers 500"):
            await attester.evidence(DATA, Deadline.after(30))
        here.metadata.faults.add(Fault(path="/", status=200, body=b"{}", times=1))
        with pytest.raises(PeerError, match="no answer that can be used"):
            await attester.evidence(DATA, Deadline.after(30))
        here.metadata.quote = lambda _: b"no quote"
        with pytest.raises(PeerError, match="gave no TD quote"):
            await attester.evidence(DATA, Deadline.after(30))
        here.metadata.quote = lambda report: platform().quote(
            report[:128] + bytes(64) + report[192:]
        )
        with pytest.raises(PeerError, match="over something else"):
            await attester.evidence(DATA, Deadline.after(30))


@both
@pytest.mark.spec("attesters", 37)
async def test_two_at_a_time_give_two_valid_evidences_with_their_own_nonces(
    short_tmp: Path, kind: int
) -> None:
    async with world(short_tmp, kind) as here:
        # Two attesters are two processes: only the lock file is between them.
        attesters = here.attester(), here.attester()
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(evidence_of(attester, bytes((number,)) * 48))
                for number, attester in enumerate(attesters * 2)
            ]
        for number, task in enumerate(tasks):
            VERIFIERS[kind](task.result(), bytes((number,)) * 48, None)


async def test_the_chips_certificate_is_fetched_again_when_the_tcb_changes(
    short_tmp: Path,
) -> None:
    async with world(short_tmp, SNP) as here:
        attester = here.attester()
        await evidence_of(attester)
        await evidence_of(attester, b"again")
        assert len(here.metadata.requests) == 1
        older = chip().tcb
        try:
            chip().tcb = bytes(8)
            VERIFIERS[SNP](await evidence_of(attester, b"newer"), b"newer", None)
        finally:
            chip().tcb = older
        assert len(here.metadata.requests) == 2


@both
@pytest.mark.spec("attesters", 38)
async def test_register_264_is_refused_and_never_register_8(short_tmp: Path, kind: int) -> None:
    async with world(short_tmp, kind) as here:
        registers = here.attester().registers
        assert registers is not None
        before = len(here.guest.relay.commands)
        for action in (
            lambda: registers.extend(264, bytes(32), Deadline.after(5)),
            lambda: registers.read(264, Deadline.after(5)),
        ):
            with pytest.raises(InvalidInputError, match=r"^Invalid PCR index: 264$"):
                await action()
        with pytest.raises(InvalidInputError, match=r"^Invalid PCR index: 264$"):
            registers.log_index(264)
        with pytest.raises(InvalidInputError, match=r"^expected sha256 digest$"):
            await registers.extend(9, bytes(48), Deadline.after(5))
        assert len(here.guest.relay.commands) == before


@both
async def test_init_data_is_verified_by_register_8(short_tmp: Path, kind: int) -> None:
    async with world(short_tmp, kind) as here:
        attester = here.attester()
        assert attester.init_data is not None
        digest = hashlib.sha256(b"init data").digest()
        await attester.init_data.bind(digest, Deadline.after(10))
        VERIFIERS[kind](await evidence_of(attester), DATA, InitData(digest=digest, claims={}))


async def test_an_index_that_may_not_be_written_fails_the_call(short_tmp: Path) -> None:
    async with world(short_tmp, TDX) as here:
        attester = here.attester()
        here.guest.relay.faults.append(
            TpmFault(code=wire.NV_WRITE, answer=wire.response(code=0x149))
        )
        with pytest.raises(PlatformError, match=r"TPM2_NV_Write: EIO .the TPM gave 0x149"):
            await attester.evidence(DATA, Deadline.after(10))
        assert REQUEST_INDEX == az_vtpm.REQUEST_INDEX
