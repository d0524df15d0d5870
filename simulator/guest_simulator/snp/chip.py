"""A processor with SEV-SNP: its keys and certificates, and the reports that it signs.

Reports are built field by field; the certificates carry what AMD's carry and are signed by a
root of this processor's own.

Source: docs/spec/attesters.md 4.1 and 4.5 (AMD, "SEV Secure Nested Paging Firmware ABI
Specification" and "Versioned Chip Endorsement Key Certificate and KDS Interface Specification").
"""

import datetime
import struct
from dataclasses import dataclass, field
from typing import Final, Self

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID, ObjectIdentifier

REPORT_BYTES: Final = 1184
SIGNED_BYTES: Final = 0x2A0
LEVELS: Final = "1.3.6.1.4.1.3704.1.3."
"""Of the patch levels in a chip's certificate; the number of the component follows."""

CHIP_ID: Final = "1.3.6.1.4.1.3704.1.4"
DAYS: Final = 365

GUIDS: Final = {
    "ARK": "c0b406a4a80349529743 3fb6014cd0ae",
    "ASK": "4ab7b379bbac4fe4a02f 05aef327c782",
    "VCEK": "63da758de6644564adc5 f4b93be8accd",
    "VLEK": "a8074bc2a25a483eaae6 39c045a0b8a1",
    "CRL": "92f81bc358114d3d97ff d19f88dc67ea",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """A generation of processors.

    Attributes:
        cpuid: family, model, stepping.
        places: component to its byte in a TCB version.
    """

    cpuid: tuple[int, int, int]
    places: dict[str, int]


_BEFORE_TURIN: Final = {"bootloader": 0, "tee": 1, "snp": 6, "microcode": 7}
_SINCE_TURIN: Final = {"fmc": 0, "bootloader": 1, "tee": 2, "snp": 3, "microcode": 7}
_OID_NUMBERS: Final = {"bootloader": 1, "tee": 2, "snp": 3, "microcode": 8, "fmc": 9}

MODELS: Final = {
    "Milan": Model(cpuid=(0x19, 0x01, 0x01), places=_BEFORE_TURIN),
    "Genoa": Model(cpuid=(0x19, 0x11, 0x01), places=_BEFORE_TURIN),
    "Turin": Model(cpuid=(0x1A, 0x02, 0x01), places=_SINCE_TURIN),
    "Venice": Model(cpuid=(0x1A, 0x50, 0x00), places=_SINCE_TURIN),
}


@dataclass(kw_only=True)
class Launch:
    """What a guest was launched with, and what the firmware says beside it.

    Attributes:
        version: of the reports, 2 to 5.
        vmpl: of who asks.
        plat_info: bit 0 is SMT, bit 1 TSME.
    """

    version: int = 3
    guest_svn: int = 7
    policy: int = 0x30000
    family_id: bytes = bytes(range(16))
    image_id: bytes = bytes(range(16, 32))
    vmpl: int = 0
    plat_info: int = 3
    key_info: int = 0
    measurement: bytes = bytes(range(100, 148))
    host_data: bytes = bytes(32)
    id_key_digest: bytes = b"\x1d" * 48
    author_key_digest: bytes = b"\xa0" * 48
    report_id: bytes = b"\x21" * 32
    report_id_ma: bytes = b"\xff" * 32
    current: tuple[int, int, int] = (1, 55, 21)
    committed: tuple[int, int, int] = (1, 55, 20)
    launch_mit_vector: int = 0x0102030405060708
    current_mit_vector: int = 0x1112131415161718


@dataclass(frozen=True, slots=True, kw_only=True)
class Chip:
    """A processor.

    Attributes:
        name: of its generation.
        key: its endorsement key (VCEK).
        chip_id: 64 bytes.
        levels: component to patch level.
        certificates: ARK, ASK and VCEK, DER.
    """

    name: str
    key: ec.EllipticCurvePrivateKey
    chip_id: bytes
    levels: dict[str, int]
    certificates: dict[str, bytes] = field(repr=False)

    @classmethod
    def generate(cls, name: str = "Milan", *, levels: dict[str, int] | None = None) -> Self:
        """New keys and certificates."""
        chosen = {"fmc": 1, "bootloader": 3, "tee": 0, "snp": 8, "microcode": 115}
        chosen.update(levels or {})
        chosen = {part: chosen[part] for part in MODELS[name].places}
        # Turin's ids have eight bytes.
        chip_id = bytes(range(1, 65)) if "fmc" not in chosen else bytes(range(1, 9)) + bytes(56)
        keys = {role: ec.generate_private_key(ec.SECP384R1()) for role in ("ARK", "ASK", "VCEK")}
        issuers = {"ARK": "ARK", "ASK": "ARK", "VCEK": "ASK"}
        certificates = {
            role: _certificate(
                f"{role}-{name}", keys[role], f"{issuer}-{name}", keys[issuer],
                _extensions(chosen, chip_id) if role == "VCEK" else {},
            )
            for role, issuer in issuers.items()
        }  # fmt: skip
        return cls(
            name=name,
            key=keys["VCEK"],
            chip_id=chip_id,
            levels=chosen,
            certificates=certificates,
        )

    def tcb(self) -> bytes:
        """The patch levels as reports have them."""
        packed = bytearray(8)
        for part, place in MODELS[self.name].places.items():
            packed[place] = self.levels[part]
        return bytes(packed)

    def report(self, launch: Launch, report_data: bytes) -> bytes:
        """A signed report over 64 bytes."""
        assert len(report_data) == 64
        report = bytearray(REPORT_BYTES)

        def put(offset: int, content: bytes) -> None:
            report[offset : offset + len(content)] = content

        put(0x000, struct.pack("<II", launch.version, launch.guest_svn))
        put(0x008, struct.pack("<Q", launch.policy))
        put(0x010, launch.family_id)
        put(0x020, launch.image_id)
        put(0x030, struct.pack("<II", launch.vmpl, 1))
        put(0x040, struct.pack("<QI", launch.plat_info, launch.key_info))
        put(0x050, report_data)
        put(0x090, launch.measurement)
        put(0x0C0, launch.host_data)
        put(0x0E0, launch.id_key_digest)
        put(0x110, launch.author_key_digest)
        put(0x140, launch.report_id)
        put(0x160, launch.report_id_ma)
        for offset in (0x038, 0x180, 0x1E0, 0x1F0):
            put(offset, self.tcb())
        if launch.version >= 3:
            put(0x188, bytes(MODELS[self.name].cpuid))
        put(0x1A0, self.chip_id)
        put(0x1E8, bytes(reversed(launch.current)))
        put(0x1EC, bytes(reversed(launch.committed)))
        if launch.version >= 5:
            put(0x1F8, struct.pack("<QQ", launch.launch_mit_vector, launch.current_mit_vector))
        put(0x2A0, self._sign(bytes(report[:SIGNED_BYTES])))
        return bytes(report)

    def _sign(self, data: bytes) -> bytes:
        r, s = decode_dss_signature(self.key.sign(data, ec.ECDSA(hashes.SHA384())))
        return r.to_bytes(72, "little") + s.to_bytes(72, "little")

    def table(self, *kinds: str) -> bytes:
        """The host's certificate table with some of the certificates."""
        return table_of([(bytes.fromhex(GUIDS[kind]), self.certificates[kind]) for kind in kinds])


def table_of(entries: list[tuple[bytes, bytes]]) -> bytes:
    """A certificate table: GUID and content of each entry, in this order."""
    offset = 24 * (len(entries) + 1)
    head, body = b"", b""
    for guid, content in entries:
        head += guid + struct.pack("<II", offset + len(body), len(content))
        body += content
    return head + bytes(24) + body


def _extensions(levels: dict[str, int], chip_id: bytes) -> dict[str, bytes]:
    """Object identifier to DER: integers, and the chip's id as it is."""
    found = {f"{LEVELS}{_OID_NUMBERS[part]}": _integer(level) for part, level in levels.items()}
    return {**found, CHIP_ID: chip_id}


def _integer(value: int) -> bytes:
    return b"\x02\x01" + bytes((value,)) if value < 0x80 else b"\x02\x02\x00" + bytes((value,))


def _certificate(
    subject: str,
    key: ec.EllipticCurvePrivateKey,
    issuer: str,
    issuer_key: ec.EllipticCurvePrivateKey,
    extensions: dict[str, bytes],
) -> bytes:
    now = datetime.datetime.now(datetime.UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, subject)]))
        .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, issuer)]))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=DAYS))
    )
    for name, content in extensions.items():
        extension = x509.UnrecognizedExtension(ObjectIdentifier(name), content)
        builder = builder.add_extension(extension, critical=False)
    return builder.sign(issuer_key, hashes.SHA384()).public_bytes(Encoding.DER)
