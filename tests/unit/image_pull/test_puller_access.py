"""Who may have an image: policies, passwords, tokens; against the simulator's registry."""

import json
import os
from pathlib import Path

import msgspec
import pytest

from guest.deadline import Deadline
from guest.errors import DeniedError, UnauthenticatedError
from guest_simulator.faults import Fault, Lie
from guest_simulator.images.entries import Entry, Kind
from guest_simulator.images.image import Image, Layer, build_image
from guest_simulator.registry.access import Access, Mode
from guest_simulator.registry.server import Registry
from image_pull.puller import ImagePuller
from image_pull.registry.rules import RegistriesTable
from support.pulling import insecure, plain_puller


def two_layers() -> Image:
    entries = (Entry(kind=Kind.FILE, path=path, data=os.urandom(9)) for path in ("a", "b"))
    return build_image([Layer(entries=(each,)) for each in entries])


async def pull(
    puller: ImagePuller, registry: Registry, bundle: Path, name: str = "demo/app:v1"
) -> str:
    return await puller.pull(f"{registry.host}/{name}", bundle, deadline=Deadline.after(40))


def nothing_at(bundle: Path) -> bool:
    return not bundle.exists() or list(bundle.iterdir()) == []


@pytest.fixture
def work(tmp_path: Path) -> Path:
    return tmp_path / "work"


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return tmp_path / "bundle"


@pytest.fixture(autouse=True)
def _no_mounts(monkeypatch: pytest.MonkeyPatch) -> None:
    """The plain pipeline makes trees to be copied, not to be mounted."""
    monkeypatch.setattr("image_pull.store.overlay.Overlays.why_not", lambda self: "test")


def _rules(registry: Registry) -> object:
    return msgspec.convert(insecure(registry.host), RegistriesTable)


POLICIES = {
    "reject": [{"type": "reject"}],
    "signedBy": [{"type": "signedBy", "keyType": "GPGKeys", "keyPath": "/k"}],
    "sigstoreSigned": [{"type": "sigstoreSigned", "keyPath": "kbs:///a/b/c"}],
    "both": [{"type": "insecureAcceptAnything"}, {"type": "reject"}],
}


@pytest.mark.spec("image-pull", 30)
@pytest.mark.parametrize("name", POLICIES)
async def test_a_denied_image_is_denied_at_every_pull_also_when_it_is_in_the_store(
    name: str, work: Path, tmp_path: Path
) -> None:
    async with Registry() as registry:
        registry.push_image("free/app:v1", two_layers())
        image = two_layers()
        registry.push_image("free/app:v1", image)
        registry.push_image("closed/app:v1", image)
        policy = {
            "default": [{"type": "insecureAcceptAnything"}],
            "transports": {"docker": {f"{registry.host}/closed": POLICIES[name]}},
        }
        async with plain_puller(
            work, registry_config=_rules(registry), image_security_policy=json.dumps(policy)
        ) as puller:
            await pull(puller, registry, tmp_path / "free", "free/app:v1")
            for _ in range(2):
                with pytest.raises(
                    DeniedError, match=r"error: Image policy rejected: Denied by policy: "
                ):
                    await pull(puller, registry, tmp_path / "closed", "closed/app:v1")
        assert nothing_at(tmp_path / "closed")


@pytest.mark.parametrize("mode", [Mode.BASIC, Mode.BEARER])
async def test_credentials_open_a_registry_and_wrong_or_no_ones_do_not(
    mode: Mode, work: Path, tmp_path: Path
) -> None:
    access = Access(mode=mode, users={"user": "right"})
    async with Registry(access=access) as registry:
        registry.push_image("demo/app:v1", two_layers())
        for password, opens in (("right", True), ("wrong", False), (None, False)):
            path = tmp_path / f"auth-{password}.json"
            entry = {"username": "user", "password": password}
            auths = {registry.host: entry} if password else {}
            path.write_text(json.dumps({"auths": auths}))
            bundle = tmp_path / f"bundle-{password}"
            async with plain_puller(
                tmp_path / f"work-{password}",
                registry_config=_rules(registry),
                authenticated_registry_credentials_uri=str(path),
            ) as puller:
                if opens:
                    await pull(puller, registry, bundle)
                    continue
                with pytest.raises(UnauthenticatedError, match=r"Not authorized: url http://"):
                    await pull(puller, registry, bundle)
        if mode is Mode.BEARER:
            assert registry.requests.count("GET", "token") >= 1


async def test_a_token_that_has_expired_is_renewed(work: Path, tmp_path: Path) -> None:
    access = Access(mode=Mode.BEARER, users={"user": "right"})
    path = tmp_path / "auth.json"
    async with Registry(access=access) as registry:
        registry.push_image("demo/app:v1", two_layers())
        registry.faults.add(Fault(path="/token", lie=Lie.EXPIRED_TOKEN, times=1))
        entry = {"username": "user", "password": "right"}
        path.write_text(json.dumps({"auths": {registry.host: entry}}))
        async with plain_puller(
            work,
            registry_config=_rules(registry),
            authenticated_registry_credentials_uri=str(path),
        ) as puller:
            await pull(puller, registry, tmp_path / "bundle")
        assert registry.requests.count("GET", "token") == 2


@pytest.mark.spec("image-pull", 17)
async def test_the_password_is_not_sent_to_where_a_registry_redirects(
    work: Path, tmp_path: Path
) -> None:
    path = tmp_path / "auth.json"
    access = Access(mode=Mode.BASIC, users={"user": "right"})
    async with Registry(access=access, redirect=True) as registry:
        registry.push_image("demo/app:v1", two_layers())
        entry = {"username": "user", "password": "right"}
        path.write_text(json.dumps({"auths": {registry.host: entry}}))
        async with plain_puller(
            work,
            registry_config=_rules(registry),
            authenticated_registry_credentials_uri=f"file://{path}",
        ) as puller:
            await pull(puller, registry, tmp_path / "bundle")
        elsewhere = registry.requests.matching("GET", "/cdn/")
        assert len(elsewhere) == 3
        assert not any("authorization" in each.headers for each in elsewhere)
