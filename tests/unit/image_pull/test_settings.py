"""What the first pull reads, and what happens when it cannot."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from guest.deadline import Deadline
from guest.errors import DecodeError, GuestError, LimitError, PlatformError
from image_pull.config import ImageConfig
from image_pull.registry.rules import RegistriesTable, RegistryTable
from image_pull.registry.transport import Transport
from image_pull.settings import Settings, load_settings, parse_rules
from image_pull.signature.lookaside import Lookaside
from image_pull.sources import MAX_RESOURCE, Sources, read_file
from support.pulling import Resources, plain_puller

AUTH = b'{"auths": {}}'
POLICY = b'{"default": [{"type": "reject"}]}'
RULES = b'[[registry]]\nlocation = "uri.io"\n'


def no_transport() -> Transport:
    raise AssertionError("nothing is fetched when settings are read")


async def load(resources: dict[str, bytes], **table: object) -> Settings:
    config = ImageConfig(**table)  # type: ignore[arg-type]  # free fields
    sources = Sources(Resources(resources))
    return await load_settings(config, sources, no_transport, Deadline.after(5))


@pytest.mark.spec("image-pull", 9)
async def test_a_policy_by_uri_beats_one_inline_and_inline_rules_beat_those_by_uri(
    tmp_path: Path,
) -> None:
    with pytest.raises(PlatformError):
        await load(
            {"kbs:///a/b/policy": b"junk"},
            image_security_policy_uri="kbs:///a/b/policy",
            image_security_policy=POLICY.decode(),
        )
    settings = await load(
        {},
        registry_configuration_uri="kbs:///a/b/missing",
        registry_config=RegistriesTable(registry=(RegistryTable(location="inline.io"),)),
    )
    assert settings.rules.registry[0].location == "inline.io"
    settings = await load({"kbs:///r": RULES}, registry_configuration_uri="kbs:///r")
    assert settings.rules.registry[0].location == "uri.io"
    sigstore = {"kbs:///sigstore": b"default-docker: {sigstore: 'file:///uri'}"}
    inline = "default-docker: {sigstore: 'file:///inline'}"
    work_dir = str(tmp_path)
    settings = await load(
        sigstore, sigstore_config_uri="kbs:///sigstore", sigstore_config=inline, work_dir=work_dir
    )
    assert address(settings) == "file:///uri"
    settings = await load(sigstore, sigstore_config=inline, work_dir=work_dir)
    assert address(settings) == "file:///inline"
    assert (await load(sigstore)).gate._means.lookaside is None


def address(settings: Settings) -> str | None:
    lookaside = settings.gate._means.lookaside
    assert isinstance(lookaside, Lookaside)
    return lookaside._config.default


async def test_files_are_named_by_uri_or_absolute_path(tmp_path: Path) -> None:
    path = tmp_path / "auth 1%20.json"
    path.write_bytes(AUTH)
    for uri in (str(path), f"file://{path}"):
        assert (await load({}, authenticated_registry_credentials_uri=uri)).auth is not None


FAILURES = [
    (
        {"authenticated_registry_credentials_uri": "kbs:///missing"},
        "Image Client error: Initialize resource provider failed: ",
    ),
    (
        {"authenticated_registry_credentials_uri": "kbs:///junk"},
        "Image Client error: Initialize auth module failed: Invalid registry auth file",
    ),
    (
        {"image_security_policy_uri": "file:///missing"},
        "Image Client error: Initialize resource provider failed: ",
    ),
    (
        {"image_security_policy_uri": "kbs:///junk"},
        "Image Client error: Initialize signature validator failed: Invalid image policy file",
    ),
    (
        {"image_security_policy": "{}"},
        "Image Client error: Initialize signature validator failed: Invalid image policy file",
    ),
    (
        {"registry_configuration_uri": "kbs:///missing"},
        "Image Client error: Initialize resource provider failed: ",
    ),
    (
        {"registry_configuration_uri": "kbs:///junk"},
        "Image Client error: Malwared registry configuration: ",
    ),
    (
        {"registry_config": RegistriesTable(registry=(RegistryTable(),))},
        "Image Client error: Malwared registry configuration: illegal Registry Config: both",
    ),
    (
        {"image_security_policy_uri": "relative/path"},
        "Image Client error: Initialize resource provider failed: relative/path: resource path",
    ),
    (
        {"image_security_policy_uri": "https://x/y"},
        "Image Client error: Initialize resource provider failed: https://x/y: Resource URI scheme",
    ),
]


@pytest.mark.parametrize(("table", "text"), FAILURES)
async def test_what_is_configured_and_cannot_be_had_fails_with_the_peers_text(
    table: dict[str, object], text: str
) -> None:
    with pytest.raises(GuestError) as caught:
        await load({"kbs:///junk": b'{"secret": hunter2}'}, **table)
    assert str(caught.value).startswith(text)
    assert "hunter2" not in " ".join(caught.value.causes())


@pytest.mark.spec("image-pull", 24)
async def test_without_a_policy_images_pass_and_with_a_bad_one_every_pull_fails(
    tmp_path: Path,
) -> None:
    settings = await load({})
    assert settings.gate._policy is None
    tables: tuple[dict[str, Any], ...] = (
        {"image_security_policy": "junk"},
        {"image_security_policy_uri": "kbs:///no"},
    )
    for table in tables:
        async with plain_puller(tmp_path / "work", **table) as puller:
            for _ in range(2):
                with pytest.raises(GuestError, match=r"^Image Client error: Initialize "):
                    await puller.pull("a.io/b", tmp_path / "bundle", deadline=Deadline.after(5))
    assert not (tmp_path / "work").exists()


@pytest.mark.spec("image-pull", 3)
async def test_nothing_is_touched_before_the_first_pull_and_a_failed_start_is_tried_again(
    tmp_path: Path,
) -> None:
    resources = Resources()
    async with plain_puller(
        tmp_path / "work", resources=resources, image_security_policy_uri="kbs:///policy"
    ) as puller:
        deadline = Deadline.after(20)
        assert list(tmp_path.iterdir()) == []
        assert resources.asked == []
        with pytest.raises(GuestError, match=r"Initialize resource provider failed"):
            await puller.pull("127.0.0.1:1/b", tmp_path / "bundle", deadline=deadline)
        resources.held["kbs:///policy"] = POLICY
        for _ in range(2):
            with pytest.raises(GuestError, match=r"Failed to pull image 127.0.0.1:1/b from all"):
                await puller.pull("127.0.0.1:1/b", tmp_path / "bundle", deadline=deadline)
        assert resources.asked == ["kbs:///policy"] * 2
        assert (tmp_path / "work").is_dir()


async def test_a_store_that_must_be_protected_and_is_not_refuses_every_pull(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("image_pull.workshop.is_protected", lambda *_: False)
    async with plain_puller(tmp_path / "work", require_protected_store=True) as puller:
        with pytest.raises(
            PlatformError, match=r"^Image Client error: Initialize layer store failed: .*encrypted"
        ):
            await puller.pull("a.io/b", tmp_path / "bundle", deadline=Deadline.after(5))


@pytest.mark.parametrize("text", [b"\xff", b"a = [", b"registry = 1", b"[[registry]]\nblocked = 1"])
def test_rules_that_are_no_rules_are_refused(text: bytes) -> None:
    with pytest.raises(DecodeError):
        parse_rules(text)


def test_unknown_keys_of_rules_are_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    parse_rules(
        b'a = 1\n[[registry]]\nlocation = "x"\nb = 1\n[[registry.mirror]]\nlocation="y"\nc=1'
    )
    assert [record.__dict__["key"] for record in caplog.records] == ["a", "b", "c"]


def test_a_file_is_read_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"x" * 10)
    assert read_file(str(path)).reveal() == b"x" * 10
    path.write_bytes(b"x" * (MAX_RESOURCE + 1))
    with pytest.raises(LimitError):
        read_file(str(path))
    os.mkfifo(tmp_path / "pipe")
    for name in ("pipe", "missing", ""):
        with pytest.raises(PlatformError):
            read_file(str(tmp_path / name))


async def test_the_default_credentials_file_of_a_pod_vm_means_anonymous(tmp_path: Path) -> None:
    path = tmp_path / "auth.json"
    path.write_text(json.dumps({"auths": {}}))
    settings = await load({}, authenticated_registry_credentials_uri=f"file://{path}")
    assert settings.auth is not None
