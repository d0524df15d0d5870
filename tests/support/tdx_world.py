"""TDX guests for tests: a simulated kernel, an attester on it, and a parser of its own kind.

The parser is written from Intel's layouts alone and shares nothing with the product.
"""

import functools
import hashlib
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from attestation_agent.attesters.base import QuoteChoice, TeeHints
from attestation_agent.attesters.tdx import TdxAttester, open_tdx
from guest_simulator.tdx.ccel import BOOT, FirmwareEvent, area_of, digest_of, log_of
from guest_simulator.tdx.guest import TdxGuest
from guest_simulator.tdx.quote import Platform


@functools.cache
def platform() -> Platform:
    """One machine for all tests; its keys take a while to make."""
    return Platform.generate()


def make_guest(root: Path, **options: Any) -> TdxGuest:
    """A TDX guest with tsm-mr and configfs and no firmware log, unless the options differ."""
    return TdxGuest(root=str(root), platform=platform(), **options)


def boot(guest: TdxGuest, events: tuple[FirmwareEvent, ...] = BOOT) -> bytes:
    """Let firmware measure, and log it; gives the log without its area."""
    for event in events:
        guest.domain.registers.extend(event.register - 1, digest_of(event))
    log = log_of(events)
    guest.ccel = area_of(log)
    return log


def hints_of(
    guest: TdxGuest,
    *,
    quote: QuoteChoice = QuoteChoice.AUTO,
    quoting_service: str | None = None,
    event_log_path: str | None = None,
) -> TeeHints:
    """Where detection and attester look."""
    return TeeHints(
        root=guest.root,
        kernel=guest,
        quote=quote,
        quoting_service=quoting_service,
        event_log_path=event_log_path,
    )


def attester_of(guest: TdxGuest, **options: Any) -> TdxAttester:
    """The product's attester on it."""
    return open_tdx(hints_of(guest, **options))


@dataclass(frozen=True, slots=True, kw_only=True)
class ParsedQuote:
    """What a verifier reads."""

    version: int
    report_data: bytes
    config_id: bytes
    registers: tuple[bytes, ...]


def parse_quote(quote: bytes, root_pem: bytes) -> ParsedQuote:
    """Check a quote of version 4 or 5 down to a root certificate, and read its body."""
    version, key_type, tee = struct.unpack_from("<HHI", quote)
    assert (key_type, tee) == (2, 0x81)
    assert version in (4, 5)
    body_at, body_length = 48, 584
    if version == 5:
        body_type, body_length = struct.unpack_from("<HI", quote, 48)
        assert body_length == {2: 584, 3: 648}[body_type]
        body_at = 54
    body = quote[body_at : body_at + body_length]
    signed = quote[: body_at + body_length]
    (section_length,) = struct.unpack_from("<I", quote, len(signed))
    section = quote[len(signed) + 4 : len(signed) + 4 + section_length]
    assert len(section) == section_length
    key = ec.EllipticCurvePublicNumbers(
        int.from_bytes(section[64:96], "big"),
        int.from_bytes(section[96:128], "big"),
        ec.SECP256R1(),
    ).public_key()
    _verify(key, section[:64], signed)
    kind, length = struct.unpack_from("<HI", section, 128)
    assert (kind, length) == (6, len(section) - 134)
    certified = section[134:]
    report, signature = certified[:384], certified[384:448]
    (auth_length,) = struct.unpack_from("<H", certified, 448)
    auth = certified[450 : 450 + auth_length]
    assert report[320:352] == hashlib.sha256(section[64:128] + auth).digest()
    kind, length = struct.unpack_from("<HI", certified, 450 + auth_length)
    pem = certified[456 + auth_length :]
    assert (kind, length) == (5, len(pem))
    leaf, middle, root = x509.load_pem_x509_certificates(pem)
    assert root == x509.load_pem_x509_certificate(root_pem)
    leaf.verify_directly_issued_by(middle)
    middle.verify_directly_issued_by(root)
    leaf_key = leaf.public_key()
    assert isinstance(leaf_key, ec.EllipticCurvePublicKey)
    _verify(leaf_key, signature, report)
    registers = tuple(body[328 + 48 * i : 376 + 48 * i] for i in range(4))
    return ParsedQuote(
        version=version,
        report_data=body[520:584],
        config_id=body[184:232],
        registers=registers,
    )


def _verify(key: ec.EllipticCurvePublicKey, signature: bytes, data: bytes) -> None:
    r, s = int.from_bytes(signature[:32], "big"), int.from_bytes(signature[32:], "big")
    key.verify(encode_dss_signature(r, s), data, ec.ECDSA(hashes.SHA256()))


def replay_log(log: bytes) -> dict[int, bytes]:
    """What a verifier makes of `cc_eventlog`: SHA-384 registers by index."""
    (size,) = struct.unpack_from("<I", log, 28)
    spec, at = log[32 : 32 + size], 32 + size
    (count,) = struct.unpack_from("<I", spec, 24)
    sizes = dict(struct.unpack_from("<HH", spec, 28 + 4 * i) for i in range(count))
    values: dict[int, bytes] = {}
    while log[at : at + 8] not in (b"\xff" * 8, bytes(8)):
        index, _kind, digests = struct.unpack_from("<III", log, at)
        at += 12
        for _ in range(digests):
            (algorithm,) = struct.unpack_from("<H", log, at)
            digest = log[at + 2 : at + 2 + sizes[algorithm]]
            at += 2 + sizes[algorithm]
            if algorithm == 0x0C:
                values[index] = hashlib.sha384(values.get(index, bytes(48)) + digest).digest()
        (length,) = struct.unpack_from("<I", log, at)
        at += 4 + length
    assert at == len(log) - 8
    return values
