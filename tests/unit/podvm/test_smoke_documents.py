"""What the smoke test's machines are given."""

import hashlib
import json
import struct

import pytest

from guest.userdata.parse import parse_user_data
from podvm import gpt
from podvm.boot import plain
from podvm.probes.luks import without_encryption
from podvm.smoke.scenario import DUMMY, in_evidence, without_user_data
from podvm.smoke.userdata import make_init_data, make_user_data
from support.luks_headers import vector, with_checksums


def test_the_dummy_is_the_one_of_the_specification() -> None:
    assert len(DUMMY.text) == 66
    assert DUMMY.digest.startswith("adb48cc1")
    assert DUMMY.digest.endswith("478d")
    assert DUMMY.pcr8.startswith("4b58b30b")
    assert DUMMY.pcr8.endswith("21a9")


def test_user_data_is_read_by_the_guest_as_it_was_meant() -> None:
    files = {"/run/peerpod/apf.json": '{\n "a": 1\n}', "/run/peerpod/scratch-space.marker": ""}

    found = parse_user_data(make_user_data(files))

    assert [(file.path, file.content) for file in found] == [
        ("/run/peerpod/apf.json", '{\n "a": 1\n}\n'),
        ("/run/peerpod/scratch-space.marker", ""),
    ]


def test_init_data_that_a_literal_string_cannot_hold_is_refused() -> None:
    with pytest.raises(ValueError, match="quotes"):
        make_init_data({"aa.toml": "a = ''''''\n"})


def test_an_edited_luks_header_has_good_checksums_and_no_cipher() -> None:
    before = vector("attached")

    after = without_encryption(before)

    assert after != before
    assert len(after) == len(before)
    (length,) = struct.unpack_from(">Q", before, 8)
    assert with_checksums(after, length) == after
    metadata = json.loads(after[4096:length].rstrip(b"\0"))
    assert {s["encryption"] for s in metadata["segments"].values()} == {"cipher_null-ecb"}


def test_partitions_are_found_where_they_were_laid() -> None:
    uuid = "11111111-2222-3333-4444-555555555555"
    parts = [
        gpt.Partition(name=name, type_uuid=gpt.ROOT, uuid=uuid, size=size)
        for name, size in (("one", 5000), ("two", 1))
    ]
    layout = gpt.lay_out(parts, disk_uuid=uuid)

    found = gpt.partitions(layout.head)

    assert [name for name, _, _ in found] == ["one", "two"]
    assert [first for _, first, _ in found] == list(layout.offsets)
    assert all(end - first >= 512 for _, first, end in found)


def test_a_console_is_read_without_its_colours() -> None:
    assert plain("[\x1b[0;32m  OK  \x1b[0m] Started \x1b[0;1;39mx\x1b[0m") == "[  OK  ] Started x"


def test_digests_are_of_the_text() -> None:
    data = make_init_data({"aa.toml": "a = 1\n"})

    assert data.digest == hashlib.sha256(data.text).hexdigest()


def test_evidence_of_another_image_or_of_other_init_data_is_told() -> None:
    given = without_user_data()
    claims = {"pcr04": "aa", "pcr08": given.init_data.pcr8}

    assert in_evidence(claims, given, {"4": "aa"}) == ""
    assert "pcr04 is aa" in in_evidence(claims, given, {"4": "bb"})
    assert "pcr08" in in_evidence(claims | {"pcr08": "00"}, given, {"4": "aa"})
