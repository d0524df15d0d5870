"""Every attester that calls the kernel, on its simulated machine, and what it depends on there."""

import base64
import functools
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from attestation_agent.attesters.base import Attester, QuoteChoice, TeeHints
from attestation_agent.attesters.cca import open_cca
from attestation_agent.attesters.nvidia_dpu import open_nvidia_dpu
from attestation_agent.attesters.se import open_se
from guest_simulator.devices.bluefield import ALIAS_KEY, CERTIFICATES, BlueField
from guest_simulator.devices.realm import Realm
from guest_simulator.devices.ultravisor import DEVICE, Ultravisor
from guest_simulator.hygon import csv, dcu
from guest_simulator.machine import Device, Machine
from guest_simulator.sgx import enclave
from guest_simulator.snp import device as snp_device
from guest_simulator.tdx.guest import TdxGuest
from support.hygon_world import CsvWorld, DcuWorld
from support.sgx_world import SgxWorld
from support.snp_world import SnpWorld
from support.tdx_world import attester_of, make_guest

Kernel: TypeAlias = TdxGuest | Machine

REPORT_DATA = bytes(range(48))


def _b64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


SE_REQUEST = json.dumps(
    {
        "request_blob": _b64(bytes(100)),
        "measurement_size": 64,
        "additional_size": 32,
        "encr_measurement_key": _b64(b"k"),
        "encr_request_nonce": _b64(b"n"),
        "image_hdr_tags": _b64(bytes(208)),
        "runtime_data_digest": _b64(REPORT_DATA),
    }
).encode()


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """One attester on one machine.

    Attributes:
        name: of the attester, and of the interface where it has several.
        build: kernel and attester, in a root.
        report_data: what it takes.
        reads: ends of the paths that it reads and must be able to read.
        writes: of those that it writes.
        controls: of those whose ioctls it calls.
        answers_in_argument: what an ioctl says is in its argument, not only behind addresses in it.
    """

    name: str
    build: Callable[[Path], tuple[Kernel, Attester]]
    report_data: bytes = REPORT_DATA
    reads: tuple[str, ...] = ()
    writes: tuple[str, ...] = ()
    controls: tuple[str, ...] = ()
    answers_in_argument: bool = False

    def __str__(self) -> str:
        return self.name


def _tdx(choice: QuoteChoice, root: Path, **options: Any) -> tuple[Kernel, Attester]:
    guest = make_guest(root, **options)
    return guest, attester_of(guest, quote=choice)


@functools.cache
def _realm() -> Realm:
    return Realm()


def _cca(root: Path) -> tuple[Kernel, Attester]:
    kernel = _realm().kernel(str(root))
    return kernel, open_cca(TeeHints(root=str(root), kernel=kernel))


def _se(root: Path) -> tuple[Kernel, Attester]:
    kernel = Machine(root=str(root), devices={DEVICE: Ultravisor()})
    return kernel, open_se(TeeHints(root=str(root), kernel=kernel))


def _dpu(root: Path) -> tuple[Kernel, Attester]:
    BlueField().install(root)
    kernel = Machine(root=str(root))
    return kernel, open_nvidia_dpu(TeeHints(root=str(root), kernel=kernel))


def _snp(root: Path, **options: Any) -> tuple[Kernel, Attester]:
    world = SnpWorld(root=root, **options)
    return world.machine, world.attester()


def _csv(root: Path) -> tuple[Kernel, Attester]:
    world = CsvWorld(root=root)
    return world.machine, world.attester()


def _dcu(root: Path) -> tuple[Kernel, Attester]:
    world = DcuWorld(root=root)
    return world.machine, world.attester()


def _sgx(root: Path) -> tuple[Kernel, Attester]:
    world = SgxWorld(root=root)
    return world.machine, world.attester()


_TSM_READS = ("/provider", "/outblob", "/generation")

WORLDS = (
    World(
        name="tdx-configfs",
        build=lambda root: _tdx(QuoteChoice.CONFIGFS, root),
        reads=_TSM_READS,
        writes=("/inblob",),
    ),
    World(
        name="tdx-ioctl",
        build=lambda root: _tdx(QuoteChoice.IOCTL, root, is_vendor_kernel=True),
        controls=("/dev/tdx_guest",),
        answers_in_argument=True,
    ),
    World(name="cca", build=_cca, reads=_TSM_READS, writes=("/inblob",)),
    World(name="snp-configfs", build=_snp, reads=_TSM_READS, writes=("/inblob",)),
    World(
        name="snp-ioctl",
        build=lambda root: _snp(root, has_configfs=False),
        controls=(snp_device.PATH,),
    ),
    World(name="csv", build=_csv, controls=(csv.PATH,)),
    World(name="hygondcu", build=_dcu, controls=(dcu.PATH,), answers_in_argument=True),
    World(name="sgx", build=_sgx, reads=(enclave.QUOTE,), writes=(enclave.USER_REPORT_DATA,)),
    World(
        name="se", build=_se, report_data=SE_REQUEST, controls=(DEVICE,), answers_in_argument=True
    ),
    World(
        name="nvidia-dpu",
        build=_dpu,
        reads=(f"/{CERTIFICATES}/alias_cert", f"/{CERTIFICATES}/device_id_cert", f"/{ALIAS_KEY}"),
    ),
)
"""All of them."""


class Silent:
    """A device that says yes and does nothing."""

    def control(self, code: int, argument: bytearray) -> None:
        """Nothing."""


class Garbling:
    """A device that does what it should and then spoils the argument."""

    def __init__(self, device: Device) -> None:
        self._device = device

    def control(self, code: int, argument: bytearray) -> None:
        """As the device, then garbage."""
        self._device.control(code, argument)
        argument[:] = b"\xa5" * len(argument)
