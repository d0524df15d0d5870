"""`signedIdentity`: which name in a signature is that of an image."""

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
from image_pull.signature.identity import MISMATCH, NO_DIGEST, SignedIdentity, SignedName
from image_pull.signature.policy import Policy
from image_pull.sources import Sources
from support.pulling import Resources
from support.signing import Repository

D = "sha256:" + "ab" * 32
E = "sha256:" + "cd" * 32
EXACT: dict[str, object] = {"type": "matchExact"}
REPO_DIGEST: dict[str, object] = {"type": "matchRepoDigestOrExact"}
REPOSITORY: dict[str, object] = {"type": "matchRepository"}


def reference(text: str) -> dict[str, object]:
    return {"type": "exactReference", "dockerReference": text}


def repository(text: str) -> dict[str, object]:
    return {"type": "exactRepository", "dockerRepository": text}


def remap(prefix: str, signed: str) -> dict[str, object]:
    return {"type": "remapIdentity", "prefix": prefix, "signedPrefix": signed}


TABLE = [
    (EXACT, "q.io/a/b:t", "q.io/a/b:t", True),
    (EXACT, "q.io/a/b:t", "q.io/a/b:u", False),
    (EXACT, "q.io/a/b", "q.io/a/b", False),
    (EXACT, "busybox", "docker.io/library/busybox:latest", True),
    (EXACT, "busybox", "busybox:latest", True),
    (EXACT, f"q.io/a/b@{D}", f"q.io/a/b@{D}", False),
    (EXACT, "q.io/a/b:t", f"q.io/a/b:t@{D}", False),
    (REPO_DIGEST, "q.io/a/b:t", "q.io/a/b:t", True),
    (REPO_DIGEST, "q.io/a/b:t", "q.io/a/b:u", False),
    (REPO_DIGEST, f"q.io/a/b@{D}", "q.io/a/b:whatever", True),
    (REPO_DIGEST, f"q.io/a/b@{D}", f"q.io/a/b@{E}", True),
    (REPO_DIGEST, f"q.io/a/b@{D}", "q.io/a/b", False),
    (REPO_DIGEST, f"q.io/a/b@{D}", "q.io/a/c:t", False),
    (REPO_DIGEST, f"q.io/a/b:t@{D}", "q.io/a/b:t", True),
    (REPO_DIGEST, f"q.io/a/b:t@{D}", "q.io/a/b:u", False),
    (REPO_DIGEST, f"q.io/a/b:t@{D}", f"q.io/a/b@{D}", False),
    (REPOSITORY, "q.io/a/b:t", "q.io/a/b:u", True),
    (REPOSITORY, "q.io/a/b:t", "q.io/a/b", True),
    (REPOSITORY, "q.io/a/b:t", "q.io/a/bc", False),
    (REPOSITORY, "q.io/a/b:t", "q.io:443/a/b", False),
    (REPOSITORY, "q.io/a/b:t", "not a reference", False),
    (REPOSITORY, "q.io/a/b:t", "", False),
    (reference("q.io/x:1"), "q.io/a/b:t", "q.io/x:1", True),
    (reference("busybox:1"), "q.io/a/b:t", "docker.io/library/busybox:1", True),
    (reference("q.io/x:1"), "q.io/a/b:t", "q.io/a/b:t", False),
    (reference("q.io/x:1"), "q.io/a/b:t", "q.io/x", False),
    (repository("q.io/x"), "q.io/a/b:t", "q.io/x:5", True),
    (repository("busybox"), "q.io/a/b:t", "docker.io/library/busybox", True),
    (repository("q.io/x"), "q.io/a/b:t", "q.io/xy:5", False),
    (repository("q.io/x:1"), "q.io/a/b:t", "q.io/x:1", False),
    (remap("m.io/mirror", "q.io"), "m.io/mirror/a:t", "q.io/a:t", True),
    (remap("m.io/mirror", "q.io"), "m.io/mirror/a:t", "m.io/mirror/a:t", False),
    (remap("m.io/mirror", "q.io"), "m.io/mirrors/a:t", "q.ios/a:t", False),
    (remap("m.io/mirror", "q.io"), "m.io/mirrors/a:t", "m.io/mirrors/a:t", True),
    (remap("m.io/a", "q.io/b"), f"m.io/a:t@{D}", "q.io/b:t", True),
    (remap("m.io/a", "q.io/b"), f"m.io/a@{D}", "q.io/b:any", True),
    (remap("m.io/", "q.io/z/"), "m.io/a:t", "q.io/z/a:t", True),
    (remap("m.io/a", "q.io/b:t"), "m.io/a:t", "q.io/b:t", False),
    (remap("m.io/a", "!"), "m.io/a:t", "q.io/b:t", False),
]


def why_not(identity: object, image: str, signed: str) -> str | None:
    try:
        SignedIdentity.from_json(identity).verify(ImageReference.parse(image), signed)
    except DeniedError as error:
        return str(error)
    return None


@pytest.mark.spec("image-pull", 26)
async def test_an_identity_is_the_images_by_its_rule_alone_and_sigstore_takes_no_tags() -> None:
    for identity, image, signed, matches in TABLE:
        said = why_not(identity, image, signed)
        has_digest = identity is EXACT and "@" in image
        no = NO_DIGEST if has_digest else MISMATCH
        assert said == (None if matches else no), (identity, image, signed)
    for rule, name in NEEDING_A_TAG:
        await _denied_without_asking_anybody(rule, name)


NEEDING_A_TAG: list[tuple[dict[str, str], str]] = [
    ({"type": "matchExact"}, "MatchExact"),
    ({"type": "matchRepoDigestOrExact"}, "MatchRepoDigestOrExact"),
    ({"type": "exactReference", "dockerReference": "a:b"}, "ExactReference"),
    ({"type": "remapIdentity", "prefix": "a", "signedPrefix": "b"}, "RemapIdentity"),
]


async def _denied_without_asking_anybody(identity: dict[str, str], name: str) -> None:
    key = {"keyPath": "kbs:///never/asked/for", "signedIdentity": identity}
    policy = {"default": [{"type": "sigstoreSigned", **key}]}
    resources, repository = Resources(), Repository()
    gate = PolicyGate(
        Policy.parse(json.dumps(policy).encode()),
        Means(keys=Sources(resources), lookaside=None, keys_end=True),
    )
    digests = (HashAlgorithm.SHA256.of(b"x"),)
    image = ImageReference.parse("q.io/a/b:t")
    candidate = Candidate(reference=image, digests=digests, repository=repository)
    with pytest.raises(DeniedError, match=r"rejected by `sigstoreSigned` rule$") as caught:
        await gate.check(candidate, Deadline.after(5))
    assert caught.value.causes()[1:] == (f"Denied by {name}",)
    assert repository.asked == resources.asked == []


BAD: list[object] = [
    None,
    "matchExact",
    {},
    {"type": "other"},
    {"type": ["matchExact"]},
    {"type": "matchExact", "dockerReference": "x"},
    {"type": "exactReference"},
    {"type": "exactReference", "dockerReference": 1},
    {"type": "exactReference", "dockerReference": ""},
    {"type": "exactRepository", "dockerReference": "x"},
    {"type": "remapIdentity", "prefix": "x"},
]


@pytest.mark.parametrize("value", BAD)
def test_an_identity_that_is_not_understood_whole_is_refused(value: object) -> None:
    with pytest.raises(DecodeError):
        SignedIdentity.from_json(value)


@given(st.text(max_size=60))
def test_any_text_is_a_name_or_a_decode_error(text: str) -> None:
    with suppress(DecodeError):
        name = SignedName.parse(text)
        assert name.is_name_only == (name.tag is None and name.digest is None)
