"""The NV index of Azure's paravisor, asked of files that stand for a TPM."""

import struct
from pathlib import Path

import pytest

from attestation_agent.attesters import detect
from attestation_agent.attesters.base import TeeHints
from attestation_agent.hardware import tpm
from attestation_agent.hardware.tpm import PARAVISOR_INDEX, has_nv_index, resource_manager
from guest.errors import PlatformError


def answer(path: Path, code: int, *, size: int = 10, body: bytes = b"") -> str:
    """A file that reads as the answer once the command of 14 bytes was written."""
    path.write_bytes(b"x" * 14 + struct.pack(">HII", 0x8001, size, code) + body)
    return str(path)


def test_the_command_reads_the_public_area_of_the_index(short_tmp: Path) -> None:
    path = answer(short_tmp / "tpm0", 0, size=12, body=b"\0\0")
    assert has_nv_index(path, PARAVISOR_INDEX)
    assert Path(path).read_bytes()[:14].hex() == "80010000000e0000016901400001"


def test_an_index_that_is_not_defined_is_absent(short_tmp: Path) -> None:
    assert not has_nv_index(answer(short_tmp / "tpm0", 0x18B), PARAVISOR_INDEX)


@pytest.mark.parametrize(
    ("code", "size", "words"),
    [(0x101, 10, "TPM2_NV_ReadPublic gave 0x101"), (0, 11, "response that is none")],
)
def test_any_other_answer_is_an_error(short_tmp: Path, code: int, size: int, words: str) -> None:
    with pytest.raises(PlatformError, match=words):
        has_nv_index(answer(short_tmp / "tpm0", code, size=size), PARAVISOR_INDEX)


def test_a_short_answer_and_a_dead_device_are_errors(short_tmp: Path) -> None:
    (short_tmp / "tpm0").write_bytes(b"")
    with pytest.raises(PlatformError, match="response of 0 bytes"):
        has_nv_index(str(short_tmp / "tpm0"), PARAVISOR_INDEX)
    with pytest.raises(PlatformError, match="cannot be opened"):
        has_nv_index(str(short_tmp), PARAVISOR_INDEX)


def test_a_tpm_that_stays_busy_is_an_error(
    short_tmp: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tpm, "RETRY_SECONDS", 0.0)
    with pytest.raises(PlatformError, match="gave 0x922"):
        has_nv_index(answer(short_tmp / "tpm0", 0x922), PARAVISOR_INDEX)


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

    def refuse(path: str, index: int) -> bool:
        raise PermissionError

    monkeypatch.setattr(tpm, "has_nv_index", refuse)
    hints = TeeHints(root=str(short_tmp))
    assert detect(hints, sample_chosen=True).tee == "sample"
    tag.write_text(f"{tpm.AZURE_ASSET_TAG}\n")
    with pytest.raises(PlatformError, match="this is Azure"):
        detect(hints, sample_chosen=True)
