"""Registers predicted from files."""

import hashlib

from podvm import measurements

SECTIONS = {
    ".cmdline": b"console=ttyS0",
    ".initrd": b"initrd",
    ".linux": b"linux",
    ".osrel": b"ID=podvm\n",
}
AFTER_STUB = "90d4a213f4b30823c907d54c97db019e594a061dee543de7c77bd0c3f1521c57"
AFTER_SYSINIT = "3843f2c768aef69ab28a99a6300ace52e4ec2c3d1dd2fc421169e64dfbb99c65"
AFTER_READY = "18ea74906dfa9fdc5ff7d8c94272406694449df84d6977e2509aa6f9136e2dc3"


def test_pcr_11_is_the_one_of_the_specification() -> None:
    assert measurements.pcr11(SECTIONS).hex() == AFTER_STUB


def test_words_of_a_phase_extend_pcr_11_further() -> None:
    events = measurements.stub_events(SECTIONS)
    words = [hashlib.sha256(word).digest() for word in (b"sysinit", b"ready")]

    assert measurements.extended([*events, words[0]]).hex() == AFTER_SYSINIT
    assert measurements.extended([*events, *words]).hex() == AFTER_READY


def test_the_stub_measures_its_own_sbat_and_never_a_section_it_does_not_know() -> None:
    plain = measurements.stub_events(SECTIONS)

    assert len(measurements.stub_events({**SECTIONS, ".sbat": b"sbat"})) == len(plain) + 2
    assert measurements.stub_events({**SECTIONS, ".text": b"code"}) == plain


def test_pcr_8_of_the_dummy_init_data_follows_from_its_digest() -> None:
    digest = bytes.fromhex("adb48cc14fea9403d3d51f3b5f5068fd4d80445a14e94f1b3d5dbabaad66478d")

    assert measurements.extended([digest]).hex() == (
        "4b58b30becd30d16f7f60d56b32661d921ae0d3310c6a89f5d552f9bfee921a9"
    )


def test_the_initrd_that_the_kernel_gets_ends_with_the_os_release() -> None:
    handed = measurements.handed_initrd(SECTIONS)

    assert handed.startswith(b"initrd\0\0" + b"070701")
    assert b".extra/os-release\0" in handed
    assert handed.index(b"ID=podvm\n") < handed.index(b"TRAILER!!!")
    assert len(handed) % 4 == 0
