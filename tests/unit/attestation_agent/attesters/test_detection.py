"""Which TEE a machine has; machines are trees of files."""

import logging
import re
import struct
import sys
from pathlib import Path

import pytest

from attestation_agent.attesters import ATTESTERS, DEVICES, available, detect, detect_devices
from attestation_agent.attesters.base import TeeHints
from guest.errors import PlatformError, UnsupportedError
from guest.tee import Tee
from guest_simulator.tpm import wire
from guest_simulator.tpm.paravisor import SNP, TDX, Paravisor
from guest_simulator.tpm.relay import Relay

ABSENT_INDEX = b"x" * 14 + struct.pack(">HII", 0x8001, 10, 0x18B)
"""A file that, when 14 bytes were written to it, reads as `no such NV index`."""


def put(root: Path, path: str, content: bytes = b"") -> None:
    file = root / path.lstrip("/")
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content)


def machine(root: Path, name: str) -> TeeHints:
    """A machine with the marks of one TEE."""
    if name in ("tdx", "snp", "csv"):
        marks = {
            "tdx": "/dev/tdx_guest",
            "snp": "/sys/devices/platform/sev-guest",
            "csv": "/dev/csv-guest",
        }
        put(root, marks[name])
    elif name == "sgx":
        put(root, "/dev/attestation/attestation_type", b"dcap\n")
    elif name == "tpm":
        put(root, "/dev/tpm0", ABSENT_INDEX)
    elif name == "se":
        put(root, "/sys/firmware/uv/prot_virt_guest", b"1\n")
        return TeeHints(root=str(root), machine="s390x")
    return TeeHints(root=str(root))


def found(hints: TeeHints, *, sample_chosen: bool = False) -> str:
    """The name of what detection comes to, attester or none."""
    try:
        return detect(hints, sample_chosen=sample_chosen).tee.value
    except UnsupportedError as error:
        match = re.search(r"this guest has ([a-z-]+)", str(error))
        return match[1] if match else str(error)


@pytest.mark.spec("attesters", 1)
def test_the_first_row_that_matches_wins_and_nothing_is_sample(
    short_tmp: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    machine(short_tmp, "snp")
    assert found(machine(short_tmp, "tdx")) == "tdx"
    assert found(machine(tmp_path / "a", "tpm")) == "tpm"
    with caplog.at_level(logging.WARNING):
        assert found(TeeHints(root=str(tmp_path / "empty"))) == "sample"
    assert "proves nothing" in caplog.records[-1].message


@pytest.mark.parametrize("name", ["tdx", "snp", "csv", "sgx", "se"])
def test_no_choice_makes_the_sample_of_a_guest_with_a_tee(short_tmp: Path, name: str) -> None:
    hints = machine(short_tmp, name)
    assert found(hints) == name
    with pytest.raises(UnsupportedError, match=f'"sample" is refused: this guest has {name}'):
        detect(hints, sample_chosen=True)


@pytest.mark.parametrize(("name", "kind"), [("az-tdx-vtpm", TDX), ("az-snp-vtpm", SNP)])
def test_a_paravisor_comes_before_what_it_runs_on_and_before_the_sample(
    short_tmp: Path, name: str, kind: int
) -> None:
    hints = machine(short_tmp, "snp")
    put(short_tmp, "/dev/tpm0")
    key = wire.RsaKey(modulus=(1 << 2047) + 1, exponent=65537)
    paravisor = Paravisor(kind=kind, key=key, make_hardware=bytes)
    with Relay(path=short_tmp / "dev" / "tpmrm0", intercept=paravisor) as relay:
        assert found(hints) == name
        with pytest.raises(UnsupportedError, match=f'"sample" is refused: this guest has {name}'):
            detect(hints, sample_chosen=True)
        asked = len(relay.commands)
        assert found(machine(short_tmp, "tdx")) == "tdx"
        assert len(relay.commands) == asked
    assert (short_tmp / "dev" / "tpm0").read_bytes() == b""


def test_a_paravisor_of_no_tee_leaves_the_tpm_or_what_else_there_is(short_tmp: Path) -> None:
    put(short_tmp, "/dev/tpm0")
    key = wire.RsaKey(modulus=(1 << 2047) + 1, exponent=65537)
    paravisor = Paravisor(kind=3, key=key, make_hardware=bytes)
    with Relay(path=short_tmp / "dev" / "tpmrm0", intercept=paravisor):
        assert found(TeeHints(root=str(short_tmp))) == "tpm"
        assert found(machine(short_tmp, "csv")) == "csv"


def test_a_tpm_without_its_library_is_said_and_nothing_stands_in(
    short_tmp: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tpm2_pytss", None)
    hints = machine(short_tmp, "tpm")
    with pytest.raises(UnsupportedError, match=r"this guest has tpm, .* tpm2-pytss .*installed"):
        detect(hints)


def test_the_sample_may_be_chosen_where_only_a_tpm_would_be_found(short_tmp: Path) -> None:
    hints = machine(short_tmp, "tpm")
    assert found(hints) == "tpm"
    put(short_tmp, "/dev/tpm0", ABSENT_INDEX)
    assert found(hints, sample_chosen=True) == "sample"


def test_occlum_is_sgx(short_tmp: Path) -> None:
    assert found(TeeHints(root=str(short_tmp), occlum=True)) == "sgx"


def test_sgx_needs_exactly_dcap_and_se_needs_its_machine(short_tmp: Path) -> None:
    put(short_tmp, "/dev/attestation/attestation_type", b"epid\n")
    put(short_tmp, "/sys/firmware/uv/prot_virt_guest", b"1\n")
    assert found(TeeHints(root=str(short_tmp), machine="x86_64")) == "sample"
    put(short_tmp, "/sys/firmware/uv/prot_virt_guest", b"0\n")
    assert found(TeeHints(root=str(short_tmp), machine="s390x")) == "sample"


@pytest.mark.spec("attesters", 32)
def test_a_handle_that_is_none_leaves_the_tpm_out(short_tmp: Path) -> None:
    put(short_tmp, "/dev/tpm0", ABSENT_INDEX)
    bad = TeeHints(root=str(short_tmp), tpm_ak_handle="zz")
    assert found(bad) == "sample"
    put(short_tmp, "/dev/tpm0", ABSENT_INDEX)
    for handle in ("0x81010005", "81010005"):
        assert found(TeeHints(root=str(short_tmp), tpm_ak_handle=handle)) == "tpm"


@pytest.mark.parametrize("tee", [Tee.TPM, Tee.AZ_TDX_VTPM, Tee.AZ_SNP_VTPM])
def test_a_tpm_is_a_device_where_it_is_asked_for_and_not_the_tee_itself(
    short_tmp: Path, tee: Tee
) -> None:
    pytest.importorskip("tpm2_pytss", reason="no tpm2-pytss (make system builds it)")
    put(short_tmp, "/dev/tpm0", ABSENT_INDEX)
    asked = TeeHints(root=str(short_tmp), tpm_beside=True)
    assert [device.tee for device in detect_devices(asked, beside=Tee.SNP)] == [Tee.TPM]
    assert detect_devices(asked, beside=tee) == ()
    assert detect_devices(TeeHints(root=str(short_tmp)), beside=Tee.SNP) == ()


def test_a_tpm_that_is_named_must_be_there(short_tmp: Path) -> None:
    put(short_tmp, "/dev/tpm0", ABSENT_INDEX)
    assert found(TeeHints(root=str(short_tmp), tpm_device="/dev/tpm7")) == "sample"


def test_a_mark_that_cannot_be_looked_at_is_an_error_not_an_absence(short_tmp: Path) -> None:
    (short_tmp / "dev").mkdir()
    (short_tmp / "dev" / "tdx_guest").symlink_to("tdx_guest")
    with pytest.raises(PlatformError, match="tdx_guest cannot be looked at"):
        detect(TeeHints(root=str(short_tmp)))


@pytest.mark.spec("attesters", 2)
def test_the_device_is_there_when_the_variable_is_even_if_empty(short_tmp: Path) -> None:
    # The variable's presence becomes the hint in `hints.read_hints`; see test_main.
    from attestation_agent.hints import read_hints

    assert read_hints({"ENABLE_SAMPLE_DEVICE": ""}).sample_device
    assert not read_hints({}).sample_device
    devices = detect_devices(TeeHints(root=str(short_tmp), sample_device=True))
    assert [device.tee for device in devices] == [Tee.SAMPLE_DEVICE]
    assert detect_devices(TeeHints(root=str(short_tmp))) == ()


def test_only_what_has_an_attester_is_called_supported() -> None:
    assert set(available()) == {e.tee for e in (*ATTESTERS, *DEVICES) if e.open is not None}
    assert {Tee.TDX, Tee.CCA, Tee.SE, Tee.SAMPLE, Tee.NVIDIA} <= set(available())
