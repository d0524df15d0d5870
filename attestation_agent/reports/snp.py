"""SEV-SNP attestation reports and the certificate table beside them. Sans-I/O.

The verifier puts the report together again from the members of the evidence and checks the
signature over that. So a report which those members cannot carry is refused here, by name.

Source: docs/spec/attesters.md 4.1 and 4.2 (AMD SEV-SNP firmware ABI specification, tables 23 and
24; GHCB specification, "SNP Extended Guest Request").
"""

import struct
from enum import StrEnum
from typing import Final, Self

import msgspec

from guest.errors import DecodeError
from guest.wire import Cursor

REPORT_BYTES: Final = 1184
SIGNED_BYTES: Final = 0x2A0
REPORT_DATA_BYTES: Final = 64
HOST_DATA_BYTES: Final = 32

VERSIONS: Final = (2, 3, 4, 5)
"""Report versions whose fields are known; a verifier takes 3 and above."""

MAX_TABLE_BYTES: Final = 64 * 1024
"""Longest certificate table that is read; the ioctl gives at most 16 KiB."""

_HEAD: Final = struct.Struct("<IIQ16s16sII8sQI4x64s48s32s48s48s32s32s8s")
"""0x000 to 0x188."""

_TAIL: Final = struct.Struct("<64s8s4s4s8sQQ")
"""0x1a0 to 0x208: chip, then versions and mitigations."""

_CHIP_AT: Final = 0x1A0


class Generation(StrEnum):
    """Processor generations; they differ in the bytes of a TCB version."""

    MILAN = "Milan"
    GENOA = "Genoa"
    TURIN = "Turin"
    VENICE = "Venice"

    @property
    def has_fmc(self) -> bool:
        """Whether a TCB version begins with that of the FMC."""
        return self in (Generation.TURIN, Generation.VENICE)


_MODELS: Final = (
    (0x19, 0x00, 0x0F, Generation.MILAN),
    (0x19, 0x10, 0x1F, Generation.GENOA),
    (0x19, 0xA0, 0xAF, Generation.GENOA),
    (0x1A, 0x00, 0x11, Generation.TURIN),
    (0x1A, 0x50, 0x57, Generation.VENICE),
    (0x1A, 0x90, 0xAF, Generation.VENICE),
    (0x1A, 0xC0, 0xC7, Generation.VENICE),
)


class TcbVersion(msgspec.Struct, frozen=True, kw_only=True):
    """Security patch levels.

    Attributes:
        fmc: None before Turin.
        bootloader: of the security processor.
        tee: of its operating system.
        snp: of the SNP firmware.
        microcode: of the cores.
    """

    fmc: int | None
    bootloader: int
    tee: int
    snp: int
    microcode: int

    @classmethod
    def decode(cls, data: bytes, generation: Generation) -> Self:
        """Parse eight bytes.

        Raises:
            DecodeError: another length, or reserved bytes that are not zero.
        """
        if len(data) != 8:
            raise DecodeError(f"TCB version has {len(data)} bytes, expected 8")
        if generation.has_fmc:
            tcb = cls(fmc=data[0], bootloader=data[1], tee=data[2], snp=data[3], microcode=data[7])
        else:
            tcb = cls(fmc=None, bootloader=data[0], tee=data[1], snp=data[6], microcode=data[7])
        if tcb.encode() != data:
            raise DecodeError(f"TCB version {data.hex()} is none of {generation}")
        return tcb

    def encode(self) -> bytes:
        """Eight bytes."""
        if self.fmc is None:
            return bytes((self.bootloader, self.tee, 0, 0, 0, 0, self.snp, self.microcode))
        return bytes((self.fmc, self.bootloader, self.tee, self.snp, 0, 0, 0, self.microcode))

    def evidence(self) -> dict[str, int | None]:
        """As evidence has it."""
        return {
            "fmc": self.fmc,
            "bootloader": self.bootloader,
            "tee": self.tee,
            "snp": self.snp,
            "microcode": self.microcode,
        }


class SnpReport(msgspec.Struct, frozen=True, kw_only=True):
    """A report; numbers and byte strings have the names that evidence gives them.

    Attributes:
        cpuid: family, model, stepping; None in version 2.
        current: firmware version as it is stored: build, minor, major; `committed` likewise.
        launch_mit_vector: None below version 5, as is `current_mit_vector`.
        signature_r: 72 bytes, little endian; `signature_s` likewise.
    """

    version: int
    guest_svn: int
    policy: int
    family_id: bytes
    image_id: bytes
    vmpl: int
    sig_algo: int
    current_tcb: TcbVersion
    plat_info: int
    key_info: int
    report_data: bytes
    measurement: bytes
    host_data: bytes
    id_key_digest: bytes
    author_key_digest: bytes
    report_id: bytes
    report_id_ma: bytes
    reported_tcb: TcbVersion
    cpuid: tuple[int, int, int] | None
    chip_id: bytes
    committed_tcb: TcbVersion
    current: tuple[int, int, int]
    committed: tuple[int, int, int]
    launch_tcb: TcbVersion
    launch_mit_vector: int | None
    current_mit_vector: int | None
    signature_r: bytes
    signature_s: bytes

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Parse exactly 1184 bytes.

        Raises:
            DecodeError: another length, version or generation, or a report that says more than
                its evidence could carry: a verifier could not put it together again.
        """
        if len(data) != REPORT_BYTES:
            raise DecodeError(f"SNP report has {len(data)} bytes, expected {REPORT_BYTES}")
        version, *head, reported_tcb = _HEAD.unpack_from(data)
        if version not in VERSIONS:
            raise DecodeError(f"SNP report of version {version}, expected 2 to 5")
        guest_svn, policy, family_id, image_id, vmpl, sig_algo, current_tcb, *head = head
        chip_id, committed_tcb, current, committed, launch_tcb, *vectors = _TAIL.unpack_from(
            data, _CHIP_AT
        )
        cpuid = None if version == 2 else (data[0x188], data[0x189], data[0x18A])
        generation = _generation_of(cpuid, chip_id)
        report = cls(
            version=version, guest_svn=guest_svn, policy=policy,
            family_id=family_id, image_id=image_id, vmpl=vmpl, sig_algo=sig_algo,
            current_tcb=TcbVersion.decode(current_tcb, generation),
            plat_info=head[0], key_info=head[1], report_data=head[2], measurement=head[3],
            host_data=head[4], id_key_digest=head[5], author_key_digest=head[6],
            report_id=head[7], report_id_ma=head[8],
            reported_tcb=TcbVersion.decode(reported_tcb, generation),
            cpuid=cpuid, chip_id=chip_id,
            committed_tcb=TcbVersion.decode(committed_tcb, generation),
            current=(current[0], current[1], current[2]),
            committed=(committed[0], committed[1], committed[2]),
            launch_tcb=TcbVersion.decode(launch_tcb, generation),
            launch_mit_vector=vectors[0] if version >= 5 else None,
            current_mit_vector=vectors[1] if version >= 5 else None,
            signature_r=data[0x2A0:0x2E8], signature_s=data[0x2E8:0x330],
        )  # fmt: skip
        report._verify_nothing_is_lost(data)
        return report

    def _verify_nothing_is_lost(self, data: bytes) -> None:
        again = self.encode()
        for at in range(SIGNED_BYTES):
            if again[at] != data[at]:
                raise DecodeError(f"SNP report of version {self.version} has byte {at:#x} set")

    def encode(self) -> bytes:
        """The report as a verifier puts it together: all else is zero."""
        head = _HEAD.pack(
            self.version, self.guest_svn, self.policy, self.family_id, self.image_id, self.vmpl,
            self.sig_algo, self.current_tcb.encode(), self.plat_info, self.key_info,
            self.report_data, self.measurement, self.host_data, self.id_key_digest,
            self.author_key_digest, self.report_id, self.report_id_ma, self.reported_tcb.encode(),
        )  # fmt: skip
        tail = _TAIL.pack(
            self.chip_id, self.committed_tcb.encode(), bytes(self.current), bytes(self.committed),
            self.launch_tcb.encode(), self.launch_mit_vector or 0, self.current_mit_vector or 0,
        )  # fmt: skip
        signed = (head + bytes(self.cpuid or ())).ljust(_CHIP_AT, b"\0") + tail
        signature = self.signature_r + self.signature_s
        return (signed.ljust(SIGNED_BYTES, b"\0") + signature).ljust(REPORT_BYTES, b"\0")

    def evidence(self) -> dict[str, object]:
        """The member `attestation_report` of evidence."""
        family, model, stepping = self.cpuid or (None, None, None)
        return {
            "version": self.version,
            "guest_svn": self.guest_svn,
            "policy": self.policy,
            "family_id": list(self.family_id),
            "image_id": list(self.image_id),
            "vmpl": self.vmpl,
            "sig_algo": self.sig_algo,
            "current_tcb": self.current_tcb.evidence(),
            "plat_info": self.plat_info,
            "key_info": self.key_info,
            "report_data": list(self.report_data),
            "measurement": list(self.measurement),
            "host_data": list(self.host_data),
            "id_key_digest": list(self.id_key_digest),
            "author_key_digest": list(self.author_key_digest),
            "report_id": list(self.report_id),
            "report_id_ma": list(self.report_id_ma),
            "reported_tcb": self.reported_tcb.evidence(),
            "cpuid_fam_id": family,
            "cpuid_mod_id": model,
            "cpuid_step": stepping,
            "chip_id": list(self.chip_id),
            "committed_tcb": self.committed_tcb.evidence(),
            "current": _firmware(self.current),
            "committed": _firmware(self.committed),
            "launch_tcb": self.launch_tcb.evidence(),
            "launch_mit_vector": self.launch_mit_vector,
            "current_mit_vector": self.current_mit_vector,
            "signature": {"r": list(self.signature_r), "s": list(self.signature_s)},
        }


def _firmware(stored: tuple[int, int, int]) -> dict[str, int]:
    build, minor, major = stored
    return {"major": major, "minor": minor, "build": build}


def _generation_of(cpuid: tuple[int, int, int] | None, chip_id: bytes) -> Generation:
    """From the processor's family and model; before version 3, from the length of its id.

    Raises:
        DecodeError: no generation that is known.
    """
    if cpuid is None:
        if not any(chip_id):
            raise DecodeError("SNP report of version 2 masks the chip id: generation unknown")
        return Generation.MILAN if any(chip_id[8:]) else Generation.TURIN
    family, model, _ = cpuid
    for known, first, last, generation in _MODELS:
        if family == known and first <= model <= last:
            return generation
    raise DecodeError(f"SNP report of an unknown processor: family {family:#x}, model {model:#x}")


_KINDS: Final = {
    "c0b406a4-a803-4952-9743-3fb6014cd0ae": "ARK",
    "4ab7b379-bbac-4fe4-a02f-05aef327c782": "ASK",
    "63da758d-e664-4564-adc5-f4b93be8accd": "VCEK",
    "a8074bc2-a25a-483e-aae6-39c045a0b8a1": "VLEK",
    "92f81bc3-5811-4d3d-97ff-d19f88dc67ea": "CRL",
}
"""GUID of a table entry to the kind of certificate."""

_ORDER: Final = ("ARK", "VCEK", "VLEK", "ASK", "CRL")
_ENDORSE_THE_CHIP: Final = ("VCEK", "VLEK")


class Certificate(msgspec.Struct, frozen=True):
    """One entry of the host's table.

    Attributes:
        guid: lower case, with hyphens.
        data: DER or PEM, as the host gave it.
    """

    guid: str
    data: bytes

    @property
    def kind(self) -> str | None:
        """`ARK`, `ASK`, `VCEK`, `VLEK`, `CRL`; None of any other."""
        return _KINDS.get(self.guid)

    def evidence(self) -> dict[str, object]:
        """As evidence has it."""
        kind = self.kind
        return {
            "cert_type": {"OTHER": self.guid} if kind is None else kind,
            "data": list(self.data),
        }


def parse_certificates(table: bytes) -> tuple[Certificate, ...]:
    """The entries of a certificate table in its order; none for the empty table.

    Raises:
        DecodeError: too long, without an end, or with an entry that is not inside the table.
    """
    if not table.strip(b"\0"):
        return ()
    if len(table) > MAX_TABLE_BYTES:
        raise DecodeError(f"certificate table has {len(table)} bytes")
    cursor, found, total = Cursor(table, "certificate table"), [], 0
    while any(guid := cursor.take(16)):
        offset, length = cursor.unsigned(4, little=True), cursor.unsigned(4, little=True)
        total += length
        if offset + length > len(table) or total > len(table):
            raise DecodeError(f"certificate table: {length} bytes at {offset} of {len(table)}")
        if length:
            found.append(Certificate(_guid(guid), table[offset : offset + length]))
    return tuple(found)


def _guid(data: bytes) -> str:
    digits = data.hex()
    return "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]))


def certificate_chain(found: tuple[Certificate, ...]) -> list[dict[str, object]] | None:
    """The member `cert_chain` of evidence; None where no certificate speaks for the chip.

    The verifier refuses a chain without one, and finds the certificate itself without a chain.
    """
    if not any(certificate.kind in _ENDORSE_THE_CHIP for certificate in found):
        return None

    def rank(certificate: Certificate) -> tuple[int, str]:
        kind = certificate.kind
        return (len(_ORDER), certificate.guid) if kind is None else (_ORDER.index(kind), "")

    return [certificate.evidence() for certificate in sorted(found, key=rank)]
