"""SNP reports and certificate tables, on documents built field by field from AMD's layouts."""

import json
import struct
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from attestation_agent.reports.snp import (
    MAX_TABLE_BYTES,
    Certificate,
    Generation,
    SnpReport,
    TcbVersion,
    certificate_chain,
    parse_certificates,
)
from guest.errors import DecodeError
from guest_simulator.snp.chip import GUIDS, Launch, table_of
from support.snp_world import chip, rebuild, verify_signature

DATA = bytes(range(64))
GENERATIONS = ["Milan", "Genoa", "Turin", "Venice"]


def report_of(name: str = "Milan", version: int = 3, **launch: Any) -> bytes:
    return chip(name).report(Launch(version=version, **launch), DATA)


@pytest.mark.parametrize("version", [2, 3, 4, 5])
@pytest.mark.parametrize("name", GENERATIONS)
def test_a_report_goes_there_and_back_to_the_byte_and_its_signature_verifies(
    name: str, version: int
) -> None:
    data = report_of(name, version, host_data=b"\x0d" * 32)
    report = SnpReport.decode(data)
    assert report.encode() == data
    members = json.loads(msgspec.json.encode(report.evidence()))
    assert rebuild(members) == data
    verify_signature(rebuild(members), chip(name).certificates["VCEK"])
    assert (report.report_data, report.host_data) == (DATA, b"\x0d" * 32)


@pytest.mark.spec("attesters", 24)
def test_fields_that_a_version_or_generation_lacks_are_null() -> None:
    for name in GENERATIONS:
        for version in (2, 3, 4, 5):
            members: dict[str, Any] = SnpReport.decode(report_of(name, version)).evidence()
            has_fmc = name in ("Turin", "Venice")
            for tcb in ("current_tcb", "reported_tcb", "committed_tcb", "launch_tcb"):
                assert (members[tcb]["fmc"] is not None) == has_fmc
            assert (members["launch_mit_vector"] is not None) == (version >= 5)
            assert (members["current_mit_vector"] is not None) == (version >= 5)
            for part in ("cpuid_fam_id", "cpuid_mod_id", "cpuid_step"):
                assert (members[part] is not None) == (version >= 3)
    assert members["current"] == {"major": 1, "minor": 55, "build": 21}
    assert members["committed"] == {"major": 1, "minor": 55, "build": 20}
    vectors = {
        "0300000000000873": (None, 3, 0, 8, 115),
        "04000000000018d9": (None, 4, 0, 24, 217),
    }
    for text, (fmc, bootloader, tee, snp, microcode) in vectors.items():
        levels = TcbVersion.decode(bytes.fromhex(text), Generation.MILAN)
        assert levels.evidence() == {
            "fmc": fmc, "bootloader": bootloader, "tee": tee, "snp": snp, "microcode": microcode,
        }  # fmt: skip
        assert levels.encode().hex() == text


def test_the_reports_of_the_vectors_give_their_members(vectors: Path) -> None:
    document = json.loads((vectors / "attesters" / "snp.json").read_text())
    for vector in document["vectors"]:
        data = bytes.fromhex(vector["report"])
        expected = vector["evidence"]["attestation_report"]
        assert json.loads(msgspec.json.encode(SnpReport.decode(data).evidence())) == expected
        assert rebuild(expected) == data
        verify_signature(data, bytes.fromhex(vector["vcek"]))


@pytest.mark.parametrize(
    ("family", "model", "name"),
    [
        (0x19, 0x00, "Milan"), (0x19, 0x0F, "Milan"), (0x19, 0x10, "Genoa"),
        (0x19, 0x1F, "Genoa"), (0x19, 0xA0, "Genoa"), (0x19, 0xAF, "Genoa"),
        (0x1A, 0x00, "Turin"), (0x1A, 0x11, "Turin"), (0x1A, 0x50, "Venice"),
        (0x1A, 0x57, "Venice"), (0x1A, 0x90, "Venice"), (0x1A, 0xC7, "Venice"),
        (0x19, 0x20, None), (0x19, 0xB0, None), (0x1A, 0x12, None), (0x1A, 0x58, None),
        (0x1A, 0xC8, None), (0x17, 0x31, None), (0, 0, None),
    ],
)  # fmt: skip
def test_family_and_model_tell_the_generation(family: int, model: int, name: str | None) -> None:
    source = name or "Milan"
    data = bytearray(report_of(source))
    data[0x188:0x18A] = bytes((family, model))
    if name is None:
        with pytest.raises(DecodeError, match="unknown processor"):
            SnpReport.decode(bytes(data))
    else:
        has_fmc = SnpReport.decode(bytes(data)).reported_tcb.fmc is not None
        assert has_fmc == (name in ("Turin", "Venice"))


def test_version_2_tells_turin_by_its_short_id_and_no_generation_without_one() -> None:
    turin = SnpReport.decode(report_of("Turin", 2))
    assert (turin.cpuid, turin.reported_tcb.fmc) == (None, 1)
    assert SnpReport.decode(report_of("Genoa", 2)).reported_tcb.fmc is None
    data = bytearray(report_of("Milan", 2))
    data[0x1A0:0x1E0] = bytes(64)
    with pytest.raises(DecodeError, match="masks the chip id"):
        SnpReport.decode(bytes(data))


def test_lengths_and_versions_that_are_none() -> None:
    data = report_of()
    for wrong in (b"", data[:-1], data + b"\0"):
        with pytest.raises(DecodeError, match="expected 1184"):
            SnpReport.decode(wrong)
    for version in (0, 1, 6, 0xFFFFFFFF):
        with pytest.raises(DecodeError, match=f"version {version}, expected 2 to 5"):
            SnpReport.decode(struct.pack("<I", version) + data[4:])


RESERVED = [0x04C, 0x18B, 0x19F, 0x1EB, 0x1EF, 0x1F8, 0x207, 0x208, 0x29F]


@pytest.mark.parametrize("at", RESERVED)
def test_what_evidence_cannot_carry_is_refused_by_name(at: int) -> None:
    data = bytearray(report_of("Milan", 4))
    data[at] = 1
    with pytest.raises(DecodeError, match=f"version 4 has byte {at:#x} set"):
        SnpReport.decode(bytes(data))


@pytest.mark.parametrize(("name", "at"), [("Milan", 2), ("Genoa", 5), ("Turin", 4), ("Venice", 6)])
def test_reserved_bytes_of_a_tcb_version_are_refused(name: str, at: int) -> None:
    data = bytearray(report_of(name))
    data[0x180 + at] = 1
    with pytest.raises(DecodeError, match="TCB version"):
        SnpReport.decode(bytes(data))
    with pytest.raises(DecodeError, match="9 bytes"):
        TcbVersion.decode(bytes(9), Generation.MILAN)


def test_what_stands_behind_the_signature_does_not_matter() -> None:
    data = bytearray(report_of())
    data[0x400] = 1
    assert SnpReport.decode(bytes(data)).encode() == report_of()[:0x2A0] + bytes(data)[
        0x2A0:0x330
    ].ljust(0x200, b"\0")


@given(st.binary(max_size=300), st.integers(0, 1184), st.sampled_from(GENERATIONS))
def test_any_bytes_give_a_report_or_a_decode_error(noise: bytes, at: int, name: str) -> None:
    data = report_of(name, 5)
    for candidate in (noise, (data[:at] + noise + data[at + len(noise) :])[:1184]):
        with suppress(DecodeError):
            report = SnpReport.decode(candidate)
            assert report.encode()[:0x330] == candidate[:0x330]
            members = json.loads(msgspec.json.encode(report.evidence()))
            assert rebuild(members)[:0x330] == candidate[:0x330]


def guid(kind: str) -> bytes:
    return bytes.fromhex(GUIDS[kind])


OTHER = bytes(range(16))


@pytest.mark.spec("attesters", 26)
def test_a_table_names_its_entries_by_guids_in_rfc_order_inside_its_bounds() -> None:
    kinds = ["ARK", "ASK", "VCEK", "VLEK", "CRL"]
    table = table_of([(guid(kind), kind.encode()) for kind in kinds] + [(OTHER, b"?")])
    found = parse_certificates(table + bytes(100))
    assert [certificate.kind for certificate in found] == [*kinds, None]
    assert [certificate.data for certificate in found] == [*(k.encode() for k in kinds), b"?"]
    assert found[0].guid == "c0b406a4-a803-4952-9743-3fb6014cd0ae"
    assert found[-1].guid == "00010203-0405-0607-0809-0a0b0c0d0e0f"
    one = table_of([(guid("VCEK"), b"abcd")])
    length = len(one)
    for offset, size in ((48, 5), (length, 1), (length - 3, 4), (2**32 - 1, 2), (0, length + 1)):
        broken = one[:16] + struct.pack("<II", offset, size) + one[24:]
        with pytest.raises(DecodeError, match=r"certificate table: \d+ bytes at"):
            parse_certificates(broken)
    for cut in range(1, 48):
        with pytest.raises(DecodeError, match="certificate table"):
            parse_certificates(one[:cut])


def test_a_table_may_be_empty_and_has_its_limits() -> None:
    assert parse_certificates(b"") == parse_certificates(bytes(4096)) == ()
    assert parse_certificates(table_of([(guid("VCEK"), b"")])) == ()
    with pytest.raises(DecodeError, match="certificate table has"):
        parse_certificates(b"\1" * (MAX_TABLE_BYTES + 1))
    twice = struct.pack("<II", 0, 72)
    overlapping = (guid("VCEK") + twice) * 2 + bytes(24)
    with pytest.raises(DecodeError, match="certificate table"):
        parse_certificates(overlapping)


def test_a_chain_is_in_upstreams_order_and_null_without_the_chips_own() -> None:
    kinds = ["CRL", "ASK", "VLEK", "VCEK", "ARK"]
    table = table_of([(OTHER, b"o")] + [(guid(kind), kind.encode()) for kind in kinds])
    chain = certificate_chain(parse_certificates(table))
    assert chain is not None
    other = {"OTHER": "00010203-0405-0607-0809-0a0b0c0d0e0f"}
    types = [entry["cert_type"] for entry in chain]
    assert types == ["ARK", "VCEK", "VLEK", "ASK", "CRL", other]
    assert chain[1] == {"cert_type": "VCEK", "data": list(b"VCEK")}
    for few in ([], ["ARK", "ASK"], ["CRL"]):
        table = table_of([(guid(kind), b"x") for kind in few])
        assert certificate_chain(parse_certificates(table)) is None
    for one in ("VCEK", "VLEK"):
        assert certificate_chain(parse_certificates(table_of([(guid(one), b"x")]))) is not None


ENTRIES = st.lists(
    st.tuples(st.binary(min_size=16, max_size=16), st.binary(max_size=20)), max_size=5
)


@given(st.binary(max_size=200), ENTRIES)
def test_any_bytes_give_certificates_or_a_decode_error(
    noise: bytes, entries: list[tuple[bytes, bytes]]
) -> None:
    with suppress(DecodeError):
        assert sum(len(found.data) for found in parse_certificates(noise)) <= len(noise)
    wanted = [(name, data) for name, data in entries if any(name)]
    found = parse_certificates(table_of(wanted))
    assert [each.data for each in found] == [data for _, data in wanted if data]
    assert all(isinstance(each, Certificate) for each in found)
