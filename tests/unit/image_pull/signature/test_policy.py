"""Policies: what is read, which scope is for an image, what is denied."""

import json
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guest.crypto.digest import HashAlgorithm
from guest.deadline import Deadline
from guest.errors import DecodeError, DeniedError
from image_pull.reference import ImageReference
from image_pull.signature.evaluation import Candidate, Means
from image_pull.signature.gate import PolicyGate
from image_pull.signature.key_source import KeyAt, KeyHere
from image_pull.signature.policy import Policy, scopes_of
from image_pull.sources import Sources
from support.pulling import Resources
from support.signing import Repository

ACCEPT = {"type": "insecureAcceptAnything"}
REJECT = {"type": "reject"}
DIGESTS = (HashAlgorithm.SHA256.of(b"manifest"),)

SCOPES = {
    "docker.io/opensuse/leap:15.3": [
        "docker.io/opensuse/leap:15.3",
        "docker.io/opensuse/leap",
        "docker.io/opensuse",
        "docker.io",
        "*.io",
        "",
    ],
    "test:5000/library/busybox": [
        "test:5000/library/busybox:latest",
        "test:5000/library/busybox",
        "test:5000/library",
        "test:5000",
        "",
    ],
    "registry.access.redhat.com/busybox": [
        "registry.access.redhat.com/busybox:latest",
        "registry.access.redhat.com/busybox",
        "registry.access.redhat.com",
        "*.access.redhat.com",
        "*.redhat.com",
        "*.com",
        "",
    ],
}


def policy(default: object, **docker: object) -> bytes:
    scopes = {name.replace("__", "/"): value for name, value in docker.items()}
    return json.dumps({"default": default, "transports": {"docker": scopes}}).encode()


async def check(policy: Policy | None, image: str) -> None:
    """Decide about an image whose signatures nobody has."""
    means = Means(keys=Sources(Resources()), lookaside=None, keys_end=True)
    candidate = Candidate(
        reference=ImageReference.parse(image), digests=DIGESTS, repository=Repository()
    )
    await PolicyGate(policy, means).check(candidate, Deadline.after(5))


async def accepts(data: bytes, image: str) -> bool:
    try:
        await check(Policy.parse(data), image)
    except DeniedError:
        return False
    return True


@pytest.mark.spec("image-pull", 25)
async def test_the_most_specific_scope_alone_decides_and_all_of_it_must_hold() -> None:
    for image, scopes in SCOPES.items():
        assert list(scopes_of(ImageReference.parse(image))) == scopes
        for number, scope in enumerate(scopes):
            rest = {other: [REJECT] for other in scopes[number + 1 :]}
            data = {"default": [REJECT], "transports": {"docker": {scope: [ACCEPT], **rest}}}
            assert await accepts(json.dumps(data).encode(), image)
    assert not await accepts(policy([ACCEPT, REJECT]), "a")
    assert not await accepts(policy([REJECT, ACCEPT]), "a")
    assert await accepts(policy([ACCEPT, ACCEPT]), "a")
    with pytest.raises(DecodeError):
        Policy.parse(policy([]))
    with pytest.raises(DecodeError):
        Policy.parse(policy([ACCEPT], a=[]))


async def test_scopes_of_other_transports_are_read_and_do_not_count() -> None:
    data = {"default": [ACCEPT], "transports": {"atomic": {"": [REJECT]}}}
    assert await accepts(json.dumps(data).encode(), "a")


async def test_a_policy_without_transports_has_its_default() -> None:
    assert await accepts(b'{"default": [{"type": "insecureAcceptAnything"}]}', "a")


BAD = [
    b"",
    b"{}",
    b'{"transports": {}}',
    b'{"default": [{"type": "insecureAcceptAnything"}], "defaults": []}',
    b'{"default": [{"type": "insecureAcceptAnything"}], "default": []}',
    b'{"default": [{"type": "other"}]}',
    b'{"default": [{"type": ["reject"]}]}',
    b'{"default": [{"type": "reject", "keyPath": "x"}]}',
    b'{"default": [{"type": "sigstoreSigned", "keyPath": "x", "signedidentity": {}}]}',
    b'{"default": [{"type": "sigstoreSigned", "keyPath": "x", "fulcio": {}}]}',
    b'{"default": [{"type": "signedBy", "keyPath": "/k"}]}',
    b'{"default": [{"type": "signedBy", "keyType": "X", "keyPath": "/k"}]}',
    b'{"default": [{"type": "sigstoreSigned", "keyPath": 1}]}',
    b'{"default": [{"type": "sigstoreSigned", "keyPaths": []}]}',
    b'{"default": [{"type": "sigstoreSigned", "keyPaths": "x"}]}',
    b'{"default": [{"type": "sigstoreSigned", "keyPath": "x", "signedIdentity": {}}]}',
    b'{"default": [{"type": "sigstoreSigned", "keyPath": "x", "pki": {}}]}',
    b'{"default": ["reject"]}',
    b'{"default": {"type": "reject"}}',
    b'{"default": [{"type": "reject"}], "transports": []}',
    b'{"default": [{"type": "reject"}], "transports": {"docker": []}}',
    b'{"default": [{"type": "reject"}], "transports": {"atomic": {"x": []}}}',
]


@pytest.mark.parametrize("data", BAD)
def test_a_policy_that_is_not_understood_whole_is_refused(data: bytes) -> None:
    with pytest.raises(DecodeError):
        Policy.parse(data)


KEYS = [
    ({"keyPath": "/a"}, (KeyAt("/a"),)),
    ({"keyPaths": ["/a", "kbs:///b"]}, (KeyAt("/a"), KeyAt("kbs:///b"))),
    ({"keyData": "x"}, (KeyHere("x"),)),
    ({"keyData": "x", "keyPath": None}, (KeyHere("x"),)),
    ({"keyData": "x", "keyPath": "/a"}, ()),
    ({}, ()),
]


@pytest.mark.parametrize(("members", "keys"), KEYS)
def test_keys_are_said_in_exactly_one_way_or_there_are_none(
    members: dict[str, object], keys: tuple[object, ...]
) -> None:
    data = policy([{"type": "signedBy", "keyType": "GPGKeys", **members}])
    assert Policy.parse(data).default[0].keys == keys


TEXTS = [
    (REJECT, "Policy `reject` rejects image docker.io/library/a:latest"),
    ({"type": "signedBy", "keyType": "GPGKeys"}, "rejected by `signedBy` rule"),
    ({"type": "sigstoreSigned", "keyPath": "/k"}, "rejected by `sigstoreSigned` rule"),
]


@pytest.mark.parametrize(("requirement", "text"), TEXTS)
async def test_a_denial_has_the_text_that_clients_look_for(
    requirement: dict[str, str], text: str
) -> None:
    with pytest.raises(DeniedError) as caught:
        await check(Policy.parse(policy([requirement])), "a")
    assert str(caught.value) == f"Image policy rejected: Denied by policy: {text}"


async def test_without_a_policy_every_image_is_let_through() -> None:
    await check(None, "a")


@given(st.binary(max_size=80))
def test_any_bytes_give_a_policy_or_a_decode_error(data: bytes) -> None:
    with suppress(DecodeError):
        Policy.parse(data)
