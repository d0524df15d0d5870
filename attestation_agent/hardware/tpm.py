"""TPM device nodes, and whose report Azure's paravisor keeps in the virtual TPM.

Only what detection needs; it must not need the TPM software stack.

Source: docs/spec/attesters.md 1.2, 5.1, 5.2, 6.1 and 7.1.
"""

import importlib.util
import os
import struct
from enum import Enum
from typing import Final

from attestation_agent.hardware import device
from attestation_agent.hardware.steps import Steps
from attestation_agent.hardware.tpm_link import FileLine, OpenLine, TpmLink, code_of, open_link
from attestation_agent.reports.hcl import MAGIC, TYPE_OFFSET, ReportType
from guest.deadline import Deadline
from guest.errors import DecodeError, PlatformError
from guest.wire import Cursor

DEVICES: Final = ("/dev/tpm0", "/dev/tpm1", "/dev/tpm2")

PARAVISOR_INDEX: Final = 0x0140_0001
"""NV index of the HCL report."""

AZURE_ASSET_TAG: Final = "7783-7084-3265-9085-8269-3286-77"
"""Chassis asset tag of every Azure machine, readable without privilege."""

ASSET_TAG_FILE: Final = "/sys/class/dmi/id/chassis_asset_tag"

NO_SUCH_HANDLE: Final = 0x18B
"""TPM_RC_HANDLE for the first handle: the index or the key is not there."""

PROBE_SECONDS: Final = 10.0
"""Seconds in which a TPM must have said what it is."""

_OWNER: Final = 0x4000_0001
_PASSWORD: Final = struct.pack(">IIHBH", 9, 0x4000_0009, 0, 0, 0)
"""Authorisation by the empty password."""


class Paravisor(Enum):
    """What a TPM says about the paravisor below this guest."""

    NONE = "none"
    OTHER = "other"
    """There is one, and no confidential virtual machine."""
    SNP = "snp"
    TDX = "tdx"


_PARAVISORS: Final = {ReportType.SNP: Paravisor.SNP, ReportType.TDX: Paravisor.TDX}


def has_library() -> bool:
    """Whether the TPM software stack's library is installed; it is not loaded for that."""
    return importlib.util.find_spec("tpm2_pytss") is not None


def resource_manager(path: str) -> str:
    """`/dev/tpmrmN` for `/dev/tpmN` where it exists, because that can be shared.

    Raises:
        PlatformError: whether it exists cannot be told.
    """
    folder, name = os.path.split(path)
    if name.startswith("tpm") and name[3:].isdecimal():
        managed = os.path.join(folder, f"tpmrm{name[3:]}")
        if device.exists(managed):
            return managed
    return path


def find_paravisor(path: str, open_line: OpenLine = FileLine) -> Paravisor:
    """Whose report is in the TPM; reads eight bytes of it.

    Args:
        path: of the character device.
        open_line: opens it.

    Raises:
        PermissionError: the device may not be opened.
        PlatformError: the TPM does not answer, or answers something else.
    """
    try:
        with open_link(path, Steps(), Deadline.after(PROBE_SECONDS), open_line) as link:
            return _ask(link)
    except PlatformError as error:
        if isinstance(error.__cause__, PermissionError):
            raise error.__cause__ from error
        raise


def has_key(path: str, handle: int, open_line: OpenLine = FileLine) -> bool:
    """Whether a persistent key is in the TPM.

    Raises:
        PlatformError: the TPM cannot be asked, or answers something else.
    """
    command = struct.pack(">HIII", 0x8001, 14, 0x173, handle)
    with open_link(path, Steps(), Deadline.after(PROBE_SECONDS), open_line) as link:
        return _response(link, command, "TPM2_ReadPublic") is not None


def _ask(link: TpmLink) -> Paravisor:
    command = struct.pack(">HIII", 0x8001, 14, 0x169, PARAVISOR_INDEX)
    if _response(link, command, "TPM2_NV_ReadPublic") is None:
        return Paravisor.NONE
    if _read(link, len(MAGIC), 0) != MAGIC:
        raise PlatformError(f"{link.path}: TPM2_NV_Read: EBADMSG (no HCL report)")
    kind = int.from_bytes(_read(link, 4, TYPE_OFFSET), "little")
    known = kind in list(ReportType)
    return _PARAVISORS[ReportType(kind)] if known else Paravisor.OTHER


def _read(link: TpmLink, length: int, offset: int) -> bytes:
    head = struct.pack(">HIIII", 0x8002, 35, 0x14E, _OWNER, PARAVISOR_INDEX)
    command = head + _PASSWORD + struct.pack(">HH", length, offset)
    response = _response(link, command, "TPM2_NV_Read")
    try:
        cursor = Cursor(response or b"", "TPM2_NV_Read response")
        cursor.take(10 + 4)
        return cursor.take(cursor.unsigned(2))
    except DecodeError as error:
        raise PlatformError(f"{link.path}: TPM2_NV_Read: EBADMSG ({error})") from error


def _response(link: TpmLink, command: bytes, name: str) -> bytes | None:
    """The response; None where the first handle names nothing."""
    response = link.exchange(command)
    code = code_of(response)
    if code == NO_SUCH_HANDLE:
        return None
    if code != 0:
        raise PlatformError(f"{link.path}: {name}: EIO (the TPM gave {code:#x})")
    return response
