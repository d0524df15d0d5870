"""All attesters, in the order of detection, and how one is chosen.

A TEE without an attester of ours is detected all the same: nothing stands in for it.

Source: docs/spec/attesters.md 1.2; docs/ARCHITECTURE.md, decision 10.
"""

import logging
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from attestation_agent.attesters.base import Attester, TeeHints
from attestation_agent.hardware import device, tpm, tsm
from attestation_agent.hardware.kernel import KERNEL
from attestation_agent.hardware.steps import Steps
from guest.errors import PlatformError, UnsupportedError
from guest.tee import Tee

log = logging.getLogger(__name__)

_AK_HANDLE: Final = re.compile(r"(0[xX])?[0-9a-fA-F]{1,8}", re.ASCII)


@dataclass(frozen=True, slots=True)
class AttesterEntry:
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


def detect_devices(hints: TeeHints) -> tuple[Attester, ...]:
    """The attesters of all additional devices that are present, in the table's order.

    Raises:
        UnsupportedError: there is no attester for a device that was asked for.
        PlatformError: whether a device is there cannot be told.
    """
    found = []
    for entry in DEVICES:
        if entry.present(hints):
            assert entry.open is not None, entry.tee
            found.append(entry.open(hints))
    return tuple(found)


def available() -> tuple[Tee, ...]:
    """Everything that has an attester."""
    return tuple(entry.tee for entry in (*ATTESTERS, *DEVICES) if entry.open is not None)


def _node(path: str) -> Callable[[TeeHints], bool]:
    return lambda hints: device.exists(hints.at(path))


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


def _has_paravisor(hints: TeeHints) -> bool:
    """Azure's paravisor keeps its report, of either TEE, in the virtual TPM."""
    path = _find_tpm(hints)
    if path is None:
        return False
    try:
        return tpm.has_nv_index(tpm.resource_manager(path), tpm.PARAVISOR_INDEX)
    except PermissionError as error:
        # An unprivileged agent cannot ask the TPM; elsewhere than on Azure it need not.
        if device.find_text(hints.at(tpm.ASSET_TAG_FILE)) == tpm.AZURE_ASSET_TAG:
            raise PlatformError(f"{path} may not be opened, and this is Azure") from error
        return False


def _has_cca(hints: TeeHints) -> bool:
    return hints.machine == "aarch64" and _report_provider(hints) == "arm_cca_guest"


def _has_se(hints: TeeHints) -> bool:
    if hints.machine != "s390x":
        return False
    text = device.find_text(hints.at("/sys/firmware/uv/prot_virt_guest"))
    return text is not None and text.startswith("1")


def _find_tpm(hints: TeeHints) -> str | None:
    candidates = tpm.DEVICES if hints.tpm_device is None else (hints.tpm_device,)
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


def _open_sample(hints: TeeHints) -> Attester:
    from attestation_agent.attesters.sample import SampleAttester

    return SampleAttester()


def _open_sample_device(hints: TeeHints) -> Attester:
    from attestation_agent.attesters.sample_device import SampleDeviceAttester

    return SampleDeviceAttester()


ATTESTERS: Final = (
    AttesterEntry(Tee.TDX, present=_has_tdx, open=_open_tdx),
    AttesterEntry(Tee.SGX, present=_has_sgx, open=None),
    AttesterEntry(Tee.AZ_TDX_VTPM, present=_has_paravisor, open=None),
    AttesterEntry(Tee.AZ_SNP_VTPM, present=_has_paravisor, open=None),
    AttesterEntry(Tee.SNP, present=_node("/sys/devices/platform/sev-guest"), open=None),
    AttesterEntry(Tee.CSV, present=_node("/dev/csv-guest"), open=None),
    AttesterEntry(Tee.CCA, present=_has_cca, open=None),
    AttesterEntry(Tee.SE, present=_has_se, open=None),
    AttesterEntry(Tee.TPM, present=_has_tpm, open=None),
    AttesterEntry(Tee.SAMPLE, present=lambda _: True, open=_open_sample),
)
"""Primary TEEs; the first that is present is this guest's."""

DEVICES: Final = (
    AttesterEntry(
        Tee.SAMPLE_DEVICE, present=lambda hints: hints.sample_device, open=_open_sample_device
    ),
)
"""Additional devices; all that are present are this guest's."""
