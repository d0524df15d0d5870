"""The lookaside configuration: what is read, which address is for an image."""

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guest.errors import DecodeError
from image_pull.reference import ImageReference
from image_pull.signature.sigstore_config import MAX_CONFIG, SigstoreConfig

CONFIG = b"""
default-docker:
  sigstore: file:///default/
docker:
  q.io/a:
    sigstore: http://host:80/x
    sigstore-staging: file:///other
  q.io/a/b:
    lookaside: https://new
    sigstore: https://old
  "q.io/a/b:t":
    sigstore: file:///exact
  "*.r.io":
    sigstore: file:///wild
    use-sigstore-attachments: true
"""

ADDRESSES = {
    "q.io/a/b:t": "file:///exact",
    "q.io/a/b:u": "https://new",
    "q.io/a/c": "http://host:80/x",
    "q.io/ab": "file:///default",
    "x.r.io/y": "file:///wild",
    "busybox": "file:///default",
}


def test_the_most_specific_scope_has_the_address() -> None:
    config = SigstoreConfig.parse(CONFIG)
    for image, address in ADDRESSES.items():
        assert config.base_of(ImageReference.parse(image)) == address
    assert SigstoreConfig.parse(b"").base_of(ImageReference.parse("a")) is None
    assert SigstoreConfig.parse(b"docker:").base_of(ImageReference.parse("a")) is None


BAD = [
    b"\xff",
    b"a: [",
    b"- a",
    b"text",
    b"default-docker: file:///x",
    b"default-docker: {}",
    b"default-docker: {sigstore-staging: 'file:///x'}",
    b"default-docker: {sigstore: 1}",
    b"default-docker: {sigstore: file://host/x}",
    b"default-docker: {sigstore: /x}",
    b"default-docker: {sigstore: 'ftp://x'}",
    b"default-docker: {sigstore: 'https://x?a=b'}",
    b"default-docker: {sigstore: 'https://x y'}",
    b"default-docker: {sigstore: !!python/name:os.system ''}",
    b"docker: {a: {sigstore: 'file:///x'}, a: {sigstore: 'file:///y'}}",
    b"docker: {a: &x {sigstore: 'file:///x'}, b: *x}",
    b"docker: [a]",
    b"docker: {a: {use-sigstore-attachments: true}}",
    b"docker: {? {a: b} : {sigstore: 'file:///x'}}",
    b"a: &a [*a]",
    b"[" * 5000,
    b"#" * (MAX_CONFIG + 1),
]


@pytest.mark.parametrize("data", BAD)
def test_a_configuration_that_is_not_understood_is_refused(data: bytes) -> None:
    with pytest.raises(DecodeError):
        SigstoreConfig.parse(data)


def one(text: str) -> SigstoreConfig:
    return SigstoreConfig.parse(text.encode())


def test_files_are_merged_unless_they_disagree() -> None:
    first = one("default-docker: {sigstore: 'file:///x'}")
    second = one("docker: {a: {sigstore: 'file:///y'}}")
    merged = first.merged(second)
    assert merged == second.merged(first)
    assert merged.merged(merged) == merged
    assert merged.base_of(ImageReference.parse("a/b")) == "file:///x"
    for other in (
        one("default-docker: {sigstore: 'file:///z'}"),
        one("docker: {a: {sigstore: 'file:///z'}}"),
    ):
        with pytest.raises(DecodeError):
            merged.merged(other)


@given(st.binary(max_size=80))
def test_any_bytes_give_a_configuration_or_a_decode_error(data: bytes) -> None:
    with suppress(DecodeError):
        SigstoreConfig.parse(data)
