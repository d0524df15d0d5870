"""What a KBS makes of evidence of every TEE: garbage and changed evidence never convince."""

import base64
import contextlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guest_simulator.devices import cbor
from guest_simulator.devices.bluefield import BlueField
from guest_simulator.devices.gpu import Gpu
from guest_simulator.devices.realm import Realm, Tag, encode
from guest_simulator.devices.ultravisor import Ultravisor
from guest_simulator.devices.verifiers import CcaVerifier, DpuVerifier, GpuVerifier, SeVerifier
from guest_simulator.hygon.csv import MAGIC, CsvGuest
from guest_simulator.hygon.dcu import Mkfd
from guest_simulator.hygon.verifier import verify_csv, verify_dcu
from guest_simulator.kbs.evidence import EvidenceError, InitData, Verifier, verify_bound
from guest_simulator.sgx.enclave import Enclave
from guest_simulator.sgx.verifier import SgxVerifier
from guest_simulator.snp.verifier import SnpVerifier, check_report
from guest_simulator.tdx.domain import Domain
from guest_simulator.tdx.quote import Platform
from guest_simulator.tdx.verifier import TdxVerifier, check_td_report
from guest_simulator.tpm.verifier import AzureVerifier, verify_tpm

PLATFORM = Platform.generate()
REALM = Realm()
GPU = Gpu(uuid="GPU-1")
DPU = BlueField()

VERIFIERS: dict[str, Verifier] = {
    "tdx": TdxVerifier(root=PLATFORM.root),
    "sgx": SgxVerifier(root=PLATFORM.root),
    "snp": SnpVerifier(certificates={}),
    "csv": verify_csv,
    "hygondcu": verify_dcu,
    "cca": CcaVerifier(realm=REALM),
    "se": SeVerifier(key=Ultravisor().key, request=b"request"),
    "nvidia": GpuVerifier(chains=(GPU.chain,)),
    "nvidia-dpu": DpuVerifier(identity=DPU.identity.public_key()),
    "tpm": verify_tpm,
    "az-tdx-vtpm": AzureVerifier(
        member="td_quote", report_data_at=128, check_hardware=check_td_report(PLATFORM.root)
    ),
    "az-snp-vtpm": AzureVerifier(member="vcek", report_data_at=80, check_hardware=check_report({})),
}

NAMES = st.sampled_from(
    ["quote", "cc_eventlog", "token", "attestation_report", "cert_chain", "magic", "flags", "data",
     "serial_number", "attestation_reports", "body", "chip_id", "user_data", "measurement", "cuid",
     "device_evidence_list", "certificate", "evidence", "devices", "alias_cert", "tpm_quote",
     "signature", "message", "pcrs", "ak_public", "version", "hcl_report", "td_quote", "vcek"]
)  # fmt: skip
LEAVES = (
    st.none()
    | st.integers(-1, 300)
    | st.text(max_size=8)
    | st.binary(max_size=40).map(lambda data: base64.b64encode(data).decode())
    | st.lists(st.integers(0, 255), max_size=20)
)
TREES = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=4),
    max_leaves=12,
)


@pytest.mark.parametrize("tee", VERIFIERS)
@given(evidence=TREES)
def test_any_evidence_is_refused(tee: str, evidence: object) -> None:
    with pytest.raises(EvidenceError):
        VERIFIERS[tee](evidence, b"expected", None)


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


DATA = bytes(range(48))
PADDED = DATA.ljust(64, b"\0")


def csv_evidence(*, has_registers: bool) -> dict[str, Any]:
    guest = CsvGuest(has_registers=has_registers, anonce=0)
    from guest_simulator.hygon.csv import sm3

    nonce = bytes(16)
    page = PADDED + nonce + sm3(PADDED + nonce)
    page += MAGIC + b"\1\0\0\0" if has_registers else b""
    report = guest.report(page.ljust(4096, b"\0"))
    return {
        "attestation_report": {
            "magic": list(MAGIC if has_registers else bytes(16)),
            "flags": int(has_registers),
            "data": list(report),
        },
        "serial_number": list(guest.serial_number),
        "cc_eventlog": None,
    }


def se_evidence() -> dict[str, Any]:
    device = Ultravisor()
    found = {
        "measurement": device.measurement(b"request", PADDED, 64),
        "additional_data": device.additional,
        "user_data": PADDED,
        "cuid": device.uid,
    }
    rest = dict.fromkeys(("encr_measurement_key", "encr_request_nonce", "image_hdr_tags"), b"")
    return {name: b64(value) for name, value in (found | rest).items()}


def good(tee: str) -> Any:
    """Evidence over `DATA` as the simulated hardware gives it."""
    match tee:
        case "tdx":
            return {"quote": b64(PLATFORM.quote(Domain().report(PADDED))), "cc_eventlog": None}
        case "sgx":
            return {"quote": b64(Enclave(platform=PLATFORM).quote(PADDED))}
        case "csv":
            return csv_evidence(has_registers=True)
        case "hygondcu":
            page = Mkfd().answer(4711, PADDED)
            body = {"chip_id": list(page[36:52]), "user_data": list(page[52:116])}
            return {"attestation_reports": [{"body": body}]}
        case "cca":
            return {"token": list(REALM.token(PADDED))}
        case "se":
            return se_evidence()
        case "nvidia":
            report, chain = b64(GPU.report(DATA[:32])), b64(GPU.chain)
            entry = {"arch": "HOPPER", "evidence": report, "certificate": chain}
            return {"device_evidence_list": [entry]}
    raise AssertionError(tee)


BUILT = ("tdx", "sgx", "csv", "hygondcu", "cca", "se", "nvidia")


@pytest.mark.parametrize("tee", BUILT)
def test_what_the_hardware_gives_convinces_for_its_own_report_data_alone(tee: str) -> None:
    evidence = json.loads(json.dumps(good(tee)))
    assert VERIFIERS[tee](evidence, DATA, None).report_data
    with pytest.raises(EvidenceError):
        VERIFIERS[tee](evidence, DATA[::-1], None)


@pytest.mark.parametrize("tee", ["tdx", "sgx", "cca"])
def test_other_init_data_than_the_hardware_binds_is_refused(tee: str) -> None:
    with pytest.raises(EvidenceError):
        VERIFIERS[tee](good(tee), DATA, InitData(digest=b"\1" * 48, claims={}))


@pytest.mark.parametrize("tee", ["sgx", "tdx"])
@pytest.mark.parametrize("at", [60, 200, 500, -900])
def test_a_changed_or_cut_quote_is_refused(tee: str, at: int) -> None:
    quote = bytearray(base64.b64decode(good(tee)["quote"]))
    for changed in (bytes(quote[:at]), bytes(quote[:at]) + b"\xa5\xa6" + bytes(quote[at:][2:])):
        with pytest.raises(EvidenceError):
            VERIFIERS[tee]({"quote": b64(changed), "cc_eventlog": None}, DATA, None)


def test_a_log_that_csv_registers_do_not_explain_is_refused() -> None:
    evidence = csv_evidence(has_registers=True)
    spec = bytes(24) + b"\1\0\0\0" + b"\x12\0\x20\0" + b"\0"
    log = bytes(28) + len(spec).to_bytes(4, "little") + spec
    entry = b"\4\0\0\0\6\0\0\0\1\0\0\0\x12\0" + bytes(32) + bytes(4)
    verify_csv(evidence | {"cc_eventlog": b64(log + b"\xff" * 8)}, DATA, None)
    with pytest.raises(EvidenceError, match="replay"):
        verify_csv(evidence | {"cc_eventlog": b64(log + entry + b"\xff" * 8)}, DATA, None)


def test_what_is_bound_is_cut_or_padded_before_it_is_compared() -> None:
    verify_bound(DATA[:32], DATA, "no")
    verify_bound(PADDED, DATA, "no")
    with pytest.raises(EvidenceError, match="no"):
        verify_bound(PADDED, b"", "no")


CBOR = st.recursive(
    st.integers(-(2**63), 2**63) | st.binary(max_size=40) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.integers(0, 99), inner),
    max_leaves=8,
)


@given(CBOR)
def test_cbor_decodes_what_it_encodes(value: object) -> None:
    assert cbor.decode(encode(value)) == value
    found = cbor.decode(encode(Tag(18, value)))
    assert (found.number, found.value) == (18, value)


@given(st.binary(max_size=60))
def test_any_bytes_are_cbor_or_an_error(data: bytes) -> None:
    with contextlib.suppress(ValueError, TypeError):
        cbor.decode(data)


@pytest.mark.parametrize("length", [0, 1231, 1236, 1300])
def test_a_report_of_a_paravisor_that_is_cut_is_refused(length: int) -> None:
    report = base64.urlsafe_b64encode(bytes(length)).decode()
    quote = {"signature": "00", "message": "00", "pcrs": ["00" * 32] * 24}
    evidence = {"version": 2, "hcl_report": report, "td_quote": "", "tpm_quote": quote}
    with pytest.raises(EvidenceError):
        VERIFIERS["az-tdx-vtpm"](evidence, DATA, None)


def test_a_key_that_is_none_is_refused() -> None:
    quote = {"signature": b64(bytes.fromhex("0014000b")), "message": "", "pcrs": ["00" * 32] * 24}
    with pytest.raises(EvidenceError):
        verify_tpm({"tpm_quote": quote, "ak_public": b64(b"no key")}, DATA, None)
