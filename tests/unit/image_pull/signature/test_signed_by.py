"""`signedBy`: the specification's signature and every way in which another one is not good."""

import base64
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from guest.crypto.digest import Digest, HashAlgorithm
from guest.deadline import Deadline
from guest.errors import DeniedError, UnavailableError
from image_pull.reference import ImageReference
from image_pull.signature.evaluation import Candidate, Means
from image_pull.signature.gate import PolicyGate
from image_pull.signature.policy import Policy
from image_pull.sources import Sources
from support.pulling import Resources
from support.signing import Gnupg, Repository, simple_payload

pytest.importorskip("pysequoia")

TEXT = "Image policy rejected: Denied by policy: rejected by `signedBy` rule"
BASE = "127.0.0.1:5077/t/base"
OTHER = HashAlgorithm.SHA256.of(b"another manifest")


@dataclass
class Shelf:
    """A lookaside store in memory."""

    held: dict[str, tuple[bytes, ...]]

    async def find(
        self, reference: ImageReference, digest: Digest, deadline: Deadline
    ) -> tuple[bytes, ...]:
        return self.held.get(str(digest), ())


class Down:
    """A lookaside store that nobody reaches."""

    async def find(
        self, reference: ImageReference, digest: Digest, deadline: Deadline
    ) -> tuple[bytes, ...]:
        raise UnavailableError("no connection to the lookaside server")


@pytest.fixture
def vector(vectors: Path) -> dict[str, Any]:
    whole = json.loads((vectors / "image_pull" / "signatures.json").read_text())
    signature = base64.b64decode(whole["simple"]["signature"])
    return {**whole["simple"], "digest": whole["manifest_digest"], "signature": signature}


async def check(
    image: str,
    digests: tuple[str, ...],
    lookaside: Shelf | Down | None,
    resources: Resources | None = None,
    **members: object,
) -> None:
    requirement = {"type": "signedBy", "keyType": "GPGKeys", **members}
    policy = Policy.parse(json.dumps({"default": [requirement]}).encode())
    means = Means(keys=Sources(resources or Resources()), lookaside=lookaside, keys_end=True)
    candidate = Candidate(
        reference=ImageReference.parse(image),
        digests=tuple(Digest.parse(each) for each in digests),
        repository=Repository(),
    )
    await PolicyGate(policy, means).check(candidate, Deadline.after(20))


async def why_not(*arguments: Any, **members: Any) -> str:
    """The reason below the text that clients look for."""
    with pytest.raises(DeniedError) as caught:
        await check(*arguments, **members)
    text, *causes = caught.value.causes()
    assert text == TEXT
    return ": ".join(causes)


@pytest.mark.spec("image-pull", 27)
async def test_the_specifications_signature_is_for_its_image_alone(vector: dict[str, Any]) -> None:
    digest, signature = vector["digest"], vector["signature"]
    shelf = Shelf({digest: (signature,)})
    ring = {"keyData": vector["keyring"]}
    for image in (f"{BASE}:latest", BASE, f"{BASE}@{digest}", f"{BASE}:latest@{digest}"):
        await check(image, (digest,), shelf, **ring)
    assert "Match reference failed." in await why_not(f"{BASE}:other", (digest,), shelf, **ring)
    name = f"{BASE}:latest"
    at = signature.index(b"optional")
    flipped = Shelf({digest: (signature[:at] + b"O" + signature[at + 1 :],)})
    assert "signature" in await why_not(name, (digest,), flipped, **ring)
    other_key = base64.b64encode(_someone_elses_ring()).decode()
    assert "no valid" in await why_not(name, (digest,), shelf, keyData=other_key)
    assert "Can not find any signatures." in await why_not(name, (digest,), Shelf({}), **ring)


def _someone_elses_ring() -> bytes:
    from pysequoia import Tsk

    return bytes(Tsk.generate("someone <else@example.com>").extract_certificate())


async def test_a_signature_for_another_digest_does_not_help(vector: dict[str, Any]) -> None:
    shelf = Shelf({str(OTHER): (vector["signature"],)})
    ring = {"keyData": vector["keyring"]}
    reason = await why_not(f"{BASE}:latest", (str(OTHER),), shelf, **ring)
    assert f"signature is for {vector['digest']}" in reason


async def test_a_signature_on_the_index_is_one_on_the_image(vector: dict[str, Any]) -> None:
    shelf = Shelf({vector["digest"]: (vector["signature"],)})
    digests = (str(OTHER), vector["digest"])
    await check(f"{BASE}:latest", digests, shelf, keyData=vector["keyring"])


async def test_one_good_signature_among_bad_ones_is_enough(vector: dict[str, Any]) -> None:
    bad = (b"", b"junk", vector["signature"][:-1])
    shelf = Shelf({vector["digest"]: (*bad, vector["signature"], b"more")})
    await check(f"{BASE}:latest", (vector["digest"],), shelf, keyData=vector["keyring"])


async def test_the_identity_of_the_policy_counts(vector: dict[str, Any]) -> None:
    shelf = Shelf({vector["digest"]: (vector["signature"],)})
    ring = {"keyData": vector["keyring"]}
    digests = (vector["digest"],)
    repository = {"type": "matchRepository"}
    await check(f"{BASE}:other", digests, shelf, signedIdentity=repository, **ring)
    exact = {"type": "matchExact"}
    pinned = f"{BASE}@{vector['digest']}"
    reason = await why_not(pinned, digests, shelf, signedIdentity=exact, **ring)
    assert "Can not reference the image with the digest in matchExact policy." in reason


async def test_keys_come_by_uri_and_any_of_them_will_do(
    vector: dict[str, Any], tmp_path: Path
) -> None:
    shelf = Shelf({vector["digest"]: (vector["signature"],)})
    digests, name = (vector["digest"],), f"{BASE}:latest"
    path = tmp_path / "ring"
    path.write_bytes(base64.b64decode(vector["keyring"]))
    held = Resources({"kbs:///a/ring/1": path.read_bytes(), "kbs:///a/ring/2": b"junk"})
    other = tmp_path / "other"
    other.write_bytes(_someone_elses_ring())
    await check(name, digests, shelf, keyPath=str(path))
    await check(name, digests, shelf, keyPath=f"file://{path}")
    await check(name, digests, shelf, held, keyPath="kbs:///a/ring/1")
    await check(name, digests, shelf, held, keyPaths=[str(other), "kbs:///a/ring/1"])
    for members in (
        {"keyPath": "kbs:///missing"},
        {"keyPath": "kbs:///a/ring/2"},
        {"keyPath": str(tmp_path / "missing")},
        {"keyPath": "http://host/key"},
        {"keyPath": "relative"},
        {"keyPath": str(other)},
        {"keyPaths": [str(path), "kbs:///missing"]},
        {"keyData": "not base64"},
        {"keyData": ""},
        {"keyData": vector["keyring"], "keyPath": str(path)},
        {},
    ):
        await why_not(name, digests, shelf, held, **members)


async def test_what_cannot_be_looked_up_is_refused(
    vector: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    digests, name, ring = (vector["digest"],), f"{BASE}:latest", {"keyData": vector["keyring"]}
    reason = await why_not(name, digests, None, **ring)
    assert reason == "Simple Signing Sigstore Config not set"
    assert "no connection to the lookaside server" in await why_not(name, digests, Down(), **ring)
    monkeypatch.setitem(__import__("sys").modules, "pysequoia", None)
    assert "extra `pgp`" in await why_not(name, digests, Shelf({}), **ring)


@pytest.fixture
def gnupg(short_tmp: Path) -> Iterator[Gnupg]:
    made = Gnupg(short_tmp)
    yield made
    made.close()


@pytest.mark.gpg
async def test_a_good_signature_over_a_wrong_payload_is_refused(gnupg: Gnupg) -> None:
    gnupg.key("one")
    ring = base64.b64encode(gnupg.export()).decode()
    digest = str(OTHER)
    payloads = (
        simple_payload("a:t", digest, type="cosign container image signature"),
        simple_payload("a:t", digest, more=1),
        simple_payload("a:u", digest),
        simple_payload("a:t", "sha256:" + "ab" * 32),
        simple_payload("a:t", digest).replace(b"creator", b"timestamp"),
        b"junk",
    )
    for payload in payloads:
        shelf = Shelf({digest: (gnupg.sign("one", payload),)})
        await why_not("a:t", (digest,), shelf, keyData=ring)
    good = gnupg.sign("one", simple_payload("a:t", digest))
    await check("a:t", (digest,), Shelf({digest: (good,)}), keyData=ring)
