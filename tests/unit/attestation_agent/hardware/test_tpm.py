"""Whose report is in a TPM, asked without the TPM software stack."""

import struct
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from attestation_agent.attesters import detect
from attestation_agent.attesters.base import TeeHints
from attestation_agent.hardware import tpm, tpm_link
from attestation_agent.hardware.tpm import Paravisor, find_paravisor, has_key, resource_manager
from attestation_agent.hardware.tpm_thread import Tpm
from guest.deadline import Deadline
from guest.errors import PlatformError, UnsupportedError
from guest_simulator.tpm import wire
from guest_simulator.tpm.paravisor import SNP, TDX, hcl_report
from guest_simulator.tpm.paravisor import Paravisor as Simulated
from guest_simulator.tpm.relay import Relay, TpmFault

KEY = wire.RsaKey(modulus=(1 << 2047) + 1, exponent=65537)


@contextmanager
def machine(path: Path, kind: int | None) -> Iterator[Relay]:
    """A TPM that knows an HCL report, or nothing at all."""
    with Relay(path=path) as relay:
        if kind is not None:
            relay.intercept = Simulated(kind=kind, key=KEY, make_hardware=bytes)
        yield relay


def make_report(kind: int) -> bytes:
    return hcl_report(kind, bytes(1184), b"{}")


@pytest.mark.parametrize(
    ("kind", "expected"), [(TDX, Paravisor.TDX), (SNP, Paravisor.SNP), (3, Paravisor.OTHER)]
)
def test_the_reports_type_tells_the_paravisors_apart(
    short_tmp: Path, kind: int, expected: Paravisor
) -> None:
    with machine(short_tmp / "tpm0", kind) as relay:
        assert find_paravisor(str(short_tmp / "tpm0")) is expected
        assert relay.codes() == [wire.NV_READ_PUBLIC, wire.NV_READ, wire.NV_READ]
        assert relay.commands[0].hex() == "80010000000e0000016901400001"
        assert relay.commands[2].hex() == (
            "8002000000230000014e400000010140000100000009400000090000000000" + "000404c8"
        )


def test_an_index_that_is_not_defined_is_no_paravisor(short_tmp: Path) -> None:
    with machine(short_tmp / "tpm0", None):
        assert find_paravisor(str(short_tmp / "tpm0")) is Paravisor.NONE


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (TpmFault(answer=wire.response(code=0x101)), "TPM2_NV_ReadPublic: EIO .*0x101"),
        (TpmFault(answer=b"\x80\x01" + bytes(40)), "EBADMSG .a response that is none"),
        (TpmFault(drop=True), "EBADMSG .response of 0 bytes"),
        (
            TpmFault(code=wire.NV_READ, answer=wire.response(wire.sized(b"ABCD"), sessions=True)),
            "EBADMSG .no HCL report",
        ),
        (TpmFault(code=wire.NV_READ, answer=wire.response(b"\0\0\0")), "EBADMSG .*TPM2_NV_Read"),
        (TpmFault(code=wire.NV_READ, answer=wire.response(code=0x149)), "NV_Read: EIO .*0x149"),
    ],
)
def test_any_other_answer_is_an_error_and_never_no_paravisor(
    short_tmp: Path, fault: TpmFault, words: str
) -> None:
    with machine(short_tmp / "tpm0", TDX) as relay:
        relay.faults.append(fault)
        with pytest.raises(PlatformError, match=words):
            find_paravisor(str(short_tmp / "tpm0"))


def test_a_tpm_that_stays_silent_is_an_error(
    short_tmp: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import threading

    monkeypatch.setattr(tpm, "PROBE_SECONDS", 0.3)
    with machine(short_tmp / "tpm0", TDX) as relay:
        relay.faults.append(TpmFault(block=threading.Event()))
        with pytest.raises(PlatformError, match="TPM2_NV_ReadPublic: ETIMEDOUT"):
            find_paravisor(str(short_tmp / "tpm0"))


def test_a_tpm_that_stays_busy_is_an_error(
    short_tmp: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tpm_link, "RETRY_SECONDS", 0.2)
    with machine(short_tmp / "tpm0", TDX) as relay:
        relay.faults.append(TpmFault(answer=wire.response(code=0x922)))
        with pytest.raises(PlatformError, match="answers 0x922 again and again"):
            find_paravisor(str(short_tmp / "tpm0"))


def test_a_key_is_there_or_not_and_a_failure_is_neither(short_tmp: Path) -> None:
    with machine(short_tmp / "tpm0", None) as relay:
        assert not has_key(str(short_tmp / "tpm0"), 0x81010002)
        relay.faults.append(TpmFault(answer=wire.response(wire.sized(b"")), times=1))
        assert has_key(str(short_tmp / "tpm0"), 0x81010002)
        assert relay.commands[0].hex() == "80010000000e0000017381010002"
        relay.faults.append(TpmFault(answer=wire.response(code=0x101)))
        with pytest.raises(PlatformError, match="TPM2_ReadPublic: EIO"):
            has_key(str(short_tmp / "tpm0"), 0x81010002)


def test_the_resource_manager_is_preferred(short_tmp: Path) -> None:
    assert resource_manager(str(short_tmp / "tpm0")) == str(short_tmp / "tpm0")
    (short_tmp / "tpmrm0").touch()
    assert resource_manager(str(short_tmp / "tpm0")) == str(short_tmp / "tpmrm0")


def test_a_tpm_that_may_not_be_opened_is_judged_by_the_machines_maker(
    short_tmp: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (short_tmp / "dev").mkdir()
    (short_tmp / "dev" / "tpm0").touch()
    tag = short_tmp / tpm.ASSET_TAG_FILE.lstrip("/")
    tag.parent.mkdir(parents=True)

    def refuse(path: str) -> Paravisor:
        raise PermissionError

    monkeypatch.setattr(tpm, "find_paravisor", refuse)
    hints = TeeHints(root=str(short_tmp))
    assert detect(hints, sample_chosen=True).tee == "sample"
    tag.write_text(f"{tpm.AZURE_ASSET_TAG}\n")
    with pytest.raises(PlatformError, match="this is Azure"):
        detect(hints, sample_chosen=True)


def test_only_the_descriptor_that_may_not_be_opened_is_a_lack_of_permission() -> None:
    def refuse(path: str) -> tpm_link.Line:
        raise PermissionError(13, "no")

    def fail(path: str) -> tpm_link.Line:
        raise OSError(5, "broken")

    with pytest.raises(PermissionError):
        find_paravisor("/dev/tpm0", refuse)
    with pytest.raises(PlatformError, match="/dev/tpm0: open: EIO"):
        find_paravisor("/dev/tpm0", fail)


def test_a_tdx_guest_with_a_tpm_opens_no_tpm_and_loads_no_tpm_library(short_tmp: Path) -> None:
    (short_tmp / "dev").mkdir()
    (short_tmp / "dev" / "tdx_guest").touch()
    script = (
        "import sys\n"
        "from attestation_agent.attesters import detect\n"
        "from attestation_agent.attesters.base import TeeHints\n"
        "assert detect(TeeHints(root=sys.argv[1])).tee == 'tdx'\n"
        "assert not [name for name in sys.modules if name.startswith('tpm2_pytss')]\n"
    )
    with machine(short_tmp / "dev" / "tpm0", TDX) as relay:
        command = [sys.executable, "-c", script, str(short_tmp)]
        done = subprocess.run(command, capture_output=True, timeout=60, text=True)
        assert done.returncode == 0, done.stderr
        assert relay.commands == []
    assert struct.unpack_from("<I", make_report(TDX), 1224) == (4,)


def test_a_guest_with_a_tpm_is_detected_before_the_tpm_library_is_loaded(short_tmp: Path) -> None:
    pytest.importorskip("tpm2_pytss", reason="no tpm2-pytss (make system builds it)")
    script = (
        "import sys\n"
        "from attestation_agent.attesters import detect\n"
        "from attestation_agent.attesters.base import TeeHints\n"
        "assert detect(TeeHints(root=sys.argv[1])).tee == 'tpm'\n"
        "assert not [name for name in sys.modules if name.startswith('tpm2_pytss')]\n"
    )
    (short_tmp / "dev").mkdir()
    with machine(short_tmp / "dev" / "tpm0", None):
        command = [sys.executable, "-c", script, str(short_tmp)]
        done = subprocess.run(command, capture_output=True, timeout=60, text=True)
    assert done.returncode == 0, done.stderr


async def test_a_tpm_library_that_cannot_be_loaded_fails_the_work_and_says_so(
    short_tmp: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "attestation_agent.hardware.tpm2", None)
    with pytest.raises(UnsupportedError, match="tpm2-pytss is there, and cannot be loaded"):
        await Tpm(str(short_tmp / "tpm0")).run(lambda session: None, Deadline.after(50))
