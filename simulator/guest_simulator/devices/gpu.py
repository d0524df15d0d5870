"""NVIDIA GPUs that sign what they measure, and the functions of NVML on them.

Source: docs/spec/attesters.md 14.1; NVML API reference, "Confidential Computing"; DMTF DSP0274.
"""

import datetime
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

HOPPER: Final = 9

SUCCESS: Final = 0
NOT_FOUND: Final = 6
GPU_IS_LOST: Final = 15

REPORT_BYTES: Final = 8192
CHAIN_BYTES: Final = 5120

_DAY: Final = datetime.timedelta(days=1)


@dataclass(kw_only=True)
class Gpu:
    """One GPU.

    Attributes:
        uuid: its name.
        architecture: NVML's number.
        key: signs reports.
        is_lost: it fell off the bus.
        change: what becomes of a report on its way.
        nonces: those that were asked for, for tests.
    """

    uuid: str
    architecture: int = HOPPER
    key: ec.EllipticCurvePrivateKey = field(
        default_factory=lambda: ec.generate_private_key(ec.SECP384R1())
    )
    is_lost: bool = False
    change: Callable[[bytes], bytes] | None = None
    nonces: list[bytes] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.chain = _certificate(self.key, self.uuid)

    def report(self, nonce: bytes) -> bytes:
        """Request and signed response of GET_MEASUREMENTS."""
        self.nonces.append(nonce)
        request = bytes((0x11, 0xE0, 0x01, 0xFF)) + nonce + b"\0"
        record = bytes((1, 1)) + (51).to_bytes(2, "little") + bytes((1, 48, 0)) + bytes(48)
        response = (
            bytes((0x11, 0x60, 0, 0, 1))
            + len(record).to_bytes(3, "little")
            + record
            + bytes(32)
            + bytes(2)
        )
        signed = request + response
        r, s = decode_dss_signature(self.key.sign(signed, ec.ECDSA(hashes.SHA384())))
        report = signed + r.to_bytes(48, "big") + s.to_bytes(48, "big")
        return report if self.change is None else self.change(report)


def _certificate(key: ec.EllipticCurvePrivateKey, name: str) -> bytes:
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"simulated {name}"[:64])])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _DAY)
        .not_valid_after(now + _DAY)
        .sign(key, hashes.SHA384())
    )
    return certificate.public_bytes(Encoding.PEM)


@dataclass(kw_only=True)
class NvmlLibrary:
    """Stands for `libnvidia-ml.so.1` where a binding keeps the loaded library.

    Each function takes what C takes, pointers as `ctypes.byref` makes them, and gives a status.

    Attributes:
        gpus: what there is.
        feature: `ccFeature`.
        failures: name of a function to the status that it gives.
        sessions: how often it was initialised and not given back.
        called: names of the functions that were called, for tests.
    """

    gpus: list[Gpu]
    feature: int = 1
    failures: dict[str, int] = field(default_factory=dict)
    sessions: int = 0
    called: list[str] = field(default_factory=list)

    def __getattr__(self, name: str) -> Callable[..., int]:
        function = type(self).__dict__.get("_" + name.removesuffix("_v2"))
        if not name.startswith("nvml") or function is None:
            raise AttributeError(name)

        def call(*arguments: Any) -> int:
            self.called.append(name)
            if name in self.failures:
                return self.failures[name]
            return int(function(self, *arguments))

        return call

    def _nvmlInitWithFlags(self, flags: Any) -> int:  # noqa: N802  # the library's name
        self.sessions += 1
        return SUCCESS

    def _nvmlShutdown(self) -> int:  # noqa: N802
        self.sessions -= 1
        return SUCCESS

    def _nvmlSystemGetConfComputeState(self, state: Any) -> int:  # noqa: N802
        state._obj.ccFeature = self.feature
        return SUCCESS

    def _nvmlDeviceGetCount(self, count: Any) -> int:  # noqa: N802
        count._obj.value = len(self.gpus)
        return SUCCESS

    def _nvmlDeviceGetHandleByIndex(self, index: Any, handle: Any) -> int:  # noqa: N802
        return self._give(index.value, handle)

    def _nvmlDeviceGetHandleByUUID(self, uuid: Any, handle: Any) -> int:  # noqa: N802
        wanted = uuid.value.decode("ascii")
        places = [place for place, gpu in enumerate(self.gpus) if gpu.uuid == wanted]
        return self._give(places[0], handle) if places else NOT_FOUND

    def _nvmlDeviceGetUUID(self, handle: Any, text: Any, length: Any) -> int:  # noqa: N802
        text.value = self._gpu(handle).uuid.encode("ascii")
        return SUCCESS

    def _nvmlDeviceGetArchitecture(self, handle: Any, number: Any) -> int:  # noqa: N802
        number._obj.value = self._gpu(handle).architecture
        return SUCCESS

    def _nvmlDeviceGetConfComputeGpuAttestationReport(  # noqa: N802
        self, handle: Any, found: Any
    ) -> int:
        gpu = self._gpu(handle)
        if gpu.is_lost:
            return GPU_IS_LOST
        report = gpu.report(bytes(found._obj.nonce))
        found._obj.attestationReportSize = len(report)
        kept = report[:REPORT_BYTES]
        found._obj.attestationReport[: len(kept)] = kept
        return SUCCESS

    def _nvmlDeviceGetConfComputeGpuCertificate(  # noqa: N802
        self, handle: Any, found: Any
    ) -> int:
        chain = self._gpu(handle).chain
        found._obj.attestationCertChainSize = len(chain)
        kept = chain[:CHAIN_BYTES]
        found._obj.attestationCertChain[: len(kept)] = kept
        return SUCCESS

    def _give(self, place: int, handle: Any) -> int:
        if not 0 <= place < len(self.gpus):
            return NOT_FOUND
        target = handle._obj
        _set_pointer(target, place + 1)
        return SUCCESS

    def _gpu(self, handle: Any) -> Gpu:
        return self.gpus[_pointer(handle) - 1]


def _set_pointer(target: Any, number: int) -> None:
    import ctypes

    ctypes.c_void_p.from_buffer(target).value = number


def _pointer(handle: Any) -> int:
    import ctypes

    return int(ctypes.c_void_p.from_buffer(handle).value or 0)
