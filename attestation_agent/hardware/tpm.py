"""TPM device nodes, and whether one holds the report of Azure's paravisor.

Only what detection needs; it must not need the TPM software stack.

Source: docs/spec/attesters.md 1.2, 5.1, 6.1 and 7.1.
"""

import os
import struct
import time
from typing import Final

from attestation_agent.hardware import device
from guest.errors import PlatformError

DEVICES: Final = ("/dev/tpm0", "/dev/tpm1", "/dev/tpm2")

PARAVISOR_INDEX: Final = 0x0140_0001
"""NV index of the HCL report."""

AZURE_ASSET_TAG: Final = "7783-7084-3265-9085-8269-3286-77"
"""Chassis asset tag of every Azure machine, readable without privilege."""

ASSET_TAG_FILE: Final = "/sys/class/dmi/id/chassis_asset_tag"

NO_SUCH_INDEX: Final = 0x18B
"""TPM_RC_HANDLE for the first handle: the index is not defined."""

RETRY_CODES: Final = (0x922, 0x908, 0x90A, 0x920)
RETRY_SECONDS: Final = 5.0
RETRY_PAUSE: Final = 0.01

_RESPONSE_BYTES: Final = 4096


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


def has_nv_index(path: str, index: int) -> bool:
    """Whether an NV index is defined; reads its public area only.

    Args:
        path: of the character device.
        index: the NV index.

    Raises:
        PermissionError: the device may not be opened.
        PlatformError: the TPM does not answer, or answers something else.
    """
    command = struct.pack(">HIII", 0x8001, 14, 0x169, index)
    give_up = time.monotonic() + RETRY_SECONDS
    while True:
        code = _response_code(_transmit(path, command), path)
        if code == 0:
            return True
        if code == NO_SUCH_INDEX:
            return False
        if code not in RETRY_CODES or time.monotonic() > give_up:
            raise PlatformError(f"{path}: TPM2_NV_ReadPublic gave {code:#x}")
        time.sleep(RETRY_PAUSE)


def _transmit(path: str, command: bytes) -> bytes:
    try:
        handle = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except PermissionError:
        raise
    except OSError as error:
        raise PlatformError(f"{path} cannot be opened") from error
    try:
        os.write(handle, command)
        return os.read(handle, _RESPONSE_BYTES)
    except OSError as error:
        raise PlatformError(f"{path} does not answer") from error
    finally:
        os.close(handle)


def _response_code(response: bytes, path: str) -> int:
    if len(response) < 10:
        raise PlatformError(f"{path}: response of {len(response)} bytes")
    tag, size, code = struct.unpack_from(">HII", response)
    if tag != 0x8001 or size != len(response):
        raise PlatformError(f"{path}: response that is none")
    return int(code)
