"""All attesters, in the order of detection, and how one is chosen.

A TEE without an attester of ours is detected all the same: nothing stands in for it.

Source: docs/spec/attesters.md 1.2; docs/ARCHITECTURE.md, decision 10.
"""

import logging
import re
from collections.abc import Callable
from typing import Final

import msgspec

from attestation_agent.attesters.base import Attester, TeeHints
from attestation_agent.default_register import PCR_TEES
from attestation_agent.hardware import device, tsm
from attestation_agent.hardware import tpm as tpm_node
from attestation_agent.hardware.kernel import KERNEL
from attestation_agent.hardware.steps import Steps
from guest.errors import PlatformError, UnsupportedError
from guest.tee import Tee

log = logging.getLogger(__name__)

_AK_HANDLE: Final = re.compile(r"(0[xX])?[0-9a-fA-F]{1,8}", re.ASCII)


class AttesterEntry(msgspec.Struct, frozen=True):
    """One row.

    Attributes:
        tee: what it is.
        present: whether this guest has it; PlatformError where that cannot be told.
        open: makes the attester; None where there is none yet.
    """

    tee: Tee
    present: Callable[[TeeHints], bool]
    open: Callable[[TeeHints], Attester] | None


def detect(hints: TeeHints, *, sample_chosen: bool = False) -> Attester:
    """The primary attester of this guest: the first row that is present.

    Args:
        hints: where to look.
        sample_chosen: the configuration prefers the sample attester to a TPM.

    Raises:
        UnsupportedError: there is no attester for the TEE that this guest has, or the sample
            attester was chosen in spite of one.
        PlatformError: whether this guest has some TEE cannot be told.
    """
    for entry in ATTESTERS:
        if sample_chosen and entry.tee is Tee.TPM:
            continue
        if not entry.present(hints):
            continue
        if sample_chosen and entry.tee is not Tee.SAMPLE:
            raise UnsupportedError(
                f'attester.tee = "sample" is refused: this guest has {entry.tee}'
            )
        if entry.open is None:
            raise UnsupportedError(f"this guest has {entry.tee}, for which there is no attester")
        if entry.tee is Tee.SAMPLE:
            log.warning("no TEE was found: the evidence of this guest proves nothing")
        return entry.open(hints)
    raise AssertionError("the last row is always present")


def detect_devices(hints: TeeHints, *, beside: Tee = Tee.SAMPLE) -> tuple[Attester, ...]:
    """The attesters of all additional devices that are present, in the table's order.

    Args:
        hints: where to look.
        beside: the primary TEE; a device whose evidence is that TEE's already is none.

    Raises:
        UnsupportedError: there is no attester for a device that was asked for.
        PlatformError: whether a device is there cannot be told.
    """
    found = []
    for entry in DEVICES:
        if entry.tee is Tee.TPM and beside in PCR_TEES:
            continue
        if entry.present(hints):
            assert entry.open is not None, entry.tee
            found.append(entry.open(hints))
    return tuple(found)


def available() -> tuple[Tee, ...]:
    """Everything that has an attester."""
    rows = (*ATTESTERS, *DEVICES)
    return tuple(dict.fromkeys(entry.tee for entry in rows if entry.open is not None))


def _has_tdx(hints: TeeHints) -> bool:
    if any(_exists(hints, node) for node in device.TDX_NODES):
        return True
    return _report_provider(hints) == "tdx_guest"


def _exists(hints: TeeHints, path: str) -> bool:
    if hints.kernel is None:
        return device.exists(hints.at(path))
    with Steps().at(hints.at(path), "stat"):
        return hints.kernel.exists(hints.at(path))


def _report_provider(hints: TeeHints) -> str | None:
    return tsm.find_provider(hints.at(tsm.REPORTS), hints.kernel or KERNEL)


def _has_sgx(hints: TeeHints) -> bool:
    return hints.occlum or device.find_text(hints.at("/dev/attestation/attestation_type")) == "dcap"


def _has_paravisor(kind: tpm_node.Paravisor) -> Callable[[TeeHints], bool]:
    return lambda hints: _find_paravisor(hints) is kind


def _find_paravisor(hints: TeeHints) -> tpm_node.Paravisor:
    """Azure's paravisor keeps its report, of either TEE, in the virtual TPM."""
    path = _find_tpm(hints)
    if path is None:
        return tpm_node.Paravisor.NONE
    try:
        return tpm_node.find_paravisor(tpm_node.resource_manager(path))
    except PermissionError as error:
        # An unprivileged agent cannot ask the TPM; elsewhere than on Azure it need not.
        if device.find_text(hints.at(tpm_node.ASSET_TAG_FILE)) == tpm_node.AZURE_ASSET_TAG:
            raise PlatformError(f"{path} may not be opened, and this is Azure") from error
        return tpm_node.Paravisor.NONE


def _has_snp(hints: TeeHints) -> bool:
    if any(_exists(hints, path) for path in device.SNP_MARKS):
        return True
    return _report_provider(hints) == "sev_guest"


def _has_csv(hints: TeeHints) -> bool:
    return _exists(hints, "/dev/csv-guest")


def _has_hygon_dcu(hints: TeeHints) -> bool:
    if not _exists(hints, "/dev/mkfd"):
        return False
    kernel, nodes = hints.kernel or KERNEL, hints.at(device.KFD_NODES)
    if not _exists(hints, device.KFD_NODES):
        return False
    with Steps().at(nodes, "list"):
        return bool(kernel.list_names(nodes))


def _has_cca(hints: TeeHints) -> bool:
    return hints.machine == "aarch64" and _report_provider(hints) == "arm_cca_guest"


def _has_se(hints: TeeHints) -> bool:
    if hints.machine != "s390x":
        return False
    text = device.find_text(hints.at("/sys/firmware/uv/prot_virt_guest"))
    return text is not None and text.startswith("1")


def _find_tpm(hints: TeeHints) -> str | None:
    candidates = tpm_node.DEVICES if hints.tpm_device is None else (hints.tpm_device,)
    paths = (hints.at(candidate) for candidate in candidates)
    return next((path for path in paths if device.exists(path)), None)


def _has_tpm(hints: TeeHints) -> bool:
    if hints.tpm_ak_handle is not None and not _AK_HANDLE.fullmatch(hints.tpm_ak_handle):
        log.warning("AA_TPM_AK_HANDLE is no handle: the TPM is not used")
        return False
    return _find_tpm(hints) is not None


def _open_tdx(hints: TeeHints) -> Attester:
    from attestation_agent.attesters.tdx import open_tdx

    return open_tdx(hints)


def _open_sgx(hints: TeeHints) -> Attester:
    from attestation_agent.attesters.sgx import open_sgx

    return open_sgx(hints)


def _open_snp(hints: TeeHints) -> Attester:
    from attestation_agent.attesters.snp import open_snp

    return open_snp(hints)


def _open_csv(hints: TeeHints) -> Attester:
    from attestation_agent.attesters.csv import open_csv

    return open_csv(hints)


def _open_hygon_dcu(hints: TeeHints) -> Attester:
    from attestation_agent.attesters.hygon_dcu import open_hygon_dcu

    return open_hygon_dcu(hints)


def _open_cca(hints: TeeHints) -> Attester:
    from attestation_agent.attesters.cca import open_cca

    return open_cca(hints)


def _open_se(hints: TeeHints) -> Attester:
    from attestation_agent.attesters.se import open_se

    return open_se(hints)


def _has_nvidia(hints: TeeHints) -> bool:
    if not hints.nvidia or not _exists(hints, device.NVIDIA_DRIVER):
        return False
    from attestation_agent.attesters.nvidia import has_nvidia

    return has_nvidia(hints)


def _open_nvidia(hints: TeeHints) -> Attester:
    from attestation_agent.attesters.nvidia import open_nvidia

    return open_nvidia(hints)


def _has_tpm_beside(hints: TeeHints) -> bool:
    return hints.tpm_beside and _has_tpm(hints)


def _has_nvidia_dpu(hints: TeeHints) -> bool:
    if not hints.nvidia_dpu:
        return False
    from attestation_agent.attesters.nvidia_dpu import has_nvidia_dpu

    return has_nvidia_dpu(hints)


def _open_nvidia_dpu(hints: TeeHints) -> Attester:
    from attestation_agent.attesters.nvidia_dpu import open_nvidia_dpu

    return open_nvidia_dpu(hints)


def _tpm_path(hints: TeeHints) -> str:
    path = _find_tpm(hints)
    if path is None:
        raise PlatformError("the TPM that was here a moment ago is gone")
    return path


def _demand_tpm_library(tee: Tee) -> None:
    if not tpm_node.has_library():
        raise UnsupportedError(
            f"this guest has {tee}, whose evidence needs the library tpm2-pytss (the extra `tpm`, "
            "on libtss2), which is not installed"
        )


def _open_az_tdx(hints: TeeHints) -> Attester:
    from attestation_agent.attesters.az_tdx_vtpm import open_az_tdx

    _demand_tpm_library(Tee.AZ_TDX_VTPM)
    return open_az_tdx(hints, _tpm_path(hints))


def _open_az_snp(hints: TeeHints) -> Attester:
    from attestation_agent.attesters.az_snp_vtpm import open_az_snp

    _demand_tpm_library(Tee.AZ_SNP_VTPM)
    return open_az_snp(hints, _tpm_path(hints))


def _open_tpm(hints: TeeHints) -> Attester:
    from attestation_agent.attesters.tpm import open_tpm

    _demand_tpm_library(Tee.TPM)
    return open_tpm(hints, _tpm_path(hints))


def _open_sample(hints: TeeHints) -> Attester:
    from attestation_agent.attesters.sample import SampleAttester

    return SampleAttester()


def _open_sample_device(hints: TeeHints) -> Attester:
    from attestation_agent.attesters.sample_device import SampleDeviceAttester

    return SampleDeviceAttester()


ATTESTERS: Final = (
    AttesterEntry(Tee.TDX, present=_has_tdx, open=_open_tdx),
    AttesterEntry(Tee.SGX, present=_has_sgx, open=_open_sgx),
    AttesterEntry(
        Tee.AZ_TDX_VTPM, present=_has_paravisor(tpm_node.Paravisor.TDX), open=_open_az_tdx
    ),
    AttesterEntry(
        Tee.AZ_SNP_VTPM, present=_has_paravisor(tpm_node.Paravisor.SNP), open=_open_az_snp
    ),
    AttesterEntry(Tee.SNP, present=_has_snp, open=_open_snp),
    AttesterEntry(Tee.CSV, present=_has_csv, open=_open_csv),
    AttesterEntry(Tee.CCA, present=_has_cca, open=_open_cca),
    AttesterEntry(Tee.SE, present=_has_se, open=_open_se),
    AttesterEntry(Tee.TPM, present=_has_tpm, open=_open_tpm),
    AttesterEntry(Tee.SAMPLE, present=lambda _: True, open=_open_sample),
)
"""Primary TEEs; the first that is present is this guest's."""

DEVICES: Final = (
    AttesterEntry(Tee.NVIDIA, present=_has_nvidia, open=_open_nvidia),
    AttesterEntry(
        Tee.SAMPLE_DEVICE, present=lambda hints: hints.sample_device, open=_open_sample_device
    ),
    AttesterEntry(Tee.HYGON_DCU, present=_has_hygon_dcu, open=_open_hygon_dcu),
    AttesterEntry(Tee.TPM, present=_has_tpm_beside, open=_open_tpm),
    AttesterEntry(Tee.NVIDIA_DPU, present=_has_nvidia_dpu, open=_open_nvidia_dpu),
)
"""Additional devices; all that are present are this guest's."""
