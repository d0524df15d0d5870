"""Credentials are stored where they may be, privately, at once or not at all."""

import asyncio
import os
import stat
from collections.abc import Mapping
from pathlib import Path

import pytest

from cdh.config import Credential
from cdh.credentials import fetch_and_store, plan, write_file
from cdh.kms.base import InitialisationError
from guest.deadline import Deadline
from guest.errors import ConfigError, DeniedError, PlatformError, UnreachableError
from guest.resource_uri import ResourceUri
from guest.secret import Secret


class Resources:
    """Resources by URI; the first calls fail with the given errors."""

    def __init__(self, resources: Mapping[str, bytes], *failures: Exception) -> None:
        self.resources = resources
        self.failures = list(failures)
        self.calls = 0

    async def fetch(self, uri: ResourceUri, deadline: Deadline) -> Secret:
        self.calls += 1
        if self.failures:
            raise self.failures.pop(0)
        return Secret(self.resources[str(uri)])

    async def run(self, stop: asyncio.Event) -> None:
        await stop.wait()

    async def close(self) -> None:
        return


def entry(path: str, uri: str = "kbs:///a/b/c") -> Credential:
    return Credential(resource_uri=uri, path=path)


async def store(base: Path, resources: Resources, *entries: Credential) -> None:
    await fetch_and_store(plan(entries, base), resources, base, Deadline.after(5))


def mode(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


@pytest.mark.parametrize(
    "path",
    [
        "/etc/passwd",
        "kbs/x",
        "{base}",
        "{base}/kbs",
        "{base}/kbs/",
        "{base}/kbsX/y",
        "{base}X/kbs/y",
        "{base}/x",
        "{base}/other/x",
        "{base}/kbs/../x",
        "{base}/kbs/./x",
        "{base}/kbs//x",
        "{base}/kbs/x/",
        "{base}/kbs/a\0b",
        "{base}/kbs/" + "n" * 256,
    ],
)
def test_a_path_outside_the_allowed_folders_is_refused(path: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="init Hub failed: illegal path to put credential : "):
        plan([entry(path.format(base=tmp_path))], tmp_path)


def test_a_uri_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="init Hub failed: illegal kbs resource uri"):
        plan([entry(f"{tmp_path}/kbs/x", "http://h/a/b/c")], tmp_path)


async def test_files_are_private_and_hold_the_bytes_verbatim(tmp_path: Path) -> None:
    base = tmp_path / "cdh"
    content = bytes(range(256))
    old = os.umask(0)
    try:
        await store(
            base,
            Resources({"kbs:///a/b/c": content}),
            entry(f"{base}/kbs/kms-credential/aliyun/x.json"),
            entry(f"{base}/sealed-secret/k"),
            entry(f"{base}/kms-credential/k"),
        )
    finally:
        os.umask(old)
    for name in ("kbs/kms-credential/aliyun/x.json", "sealed-secret/k", "kms-credential/k"):
        assert (base / name).read_bytes() == content
        assert mode(base / name) == 0o600
    for name in (".", "kbs", "kbs/kms-credential/aliyun"):
        assert mode(base / name) == 0o700
        assert not [child for child in (base / name).iterdir() if child.name.startswith(".")]


async def test_of_two_entries_with_one_path_the_later_one_counts(tmp_path: Path) -> None:
    resources = Resources({"kbs:///a/b/c": b"1", "kbs:///a/b/d": b"2"})
    path = f"{tmp_path}/kbs/x"
    await store(tmp_path, resources, entry(path), entry(path, "kbs:///a/b/d"))
    assert Path(path).read_bytes() == b"2"
    assert resources.calls == 1


async def test_an_existing_file_is_replaced_and_never_written_into(tmp_path: Path) -> None:
    (tmp_path / "kbs").mkdir(mode=0o700)
    outside = tmp_path / "outside"
    outside.write_bytes(b"old")
    os.link(outside, tmp_path / "kbs" / "x")
    (tmp_path / "kbs" / "y").symlink_to(outside)
    resources = Resources({"kbs:///a/b/c": b"new"})
    await store(tmp_path, resources, entry(f"{tmp_path}/kbs/x"), entry(f"{tmp_path}/kbs/y"))
    assert outside.read_bytes() == b"old"
    for name in ("x", "y"):
        assert (tmp_path / "kbs" / name).read_bytes() == b"new"
        assert not (tmp_path / "kbs" / name).is_symlink()


async def test_a_symbolic_link_on_the_way_is_refused(tmp_path: Path) -> None:
    base, elsewhere = tmp_path / "cdh", tmp_path / "elsewhere"
    base.mkdir()
    elsewhere.mkdir()
    (base / "kbs").symlink_to(elsewhere)
    with pytest.raises(PlatformError, match="cannot write"):
        await store(base, Resources({"kbs:///a/b/c": b"x"}), entry(f"{base}/kbs/x"))
    assert list(elsewhere.iterdir()) == []


def test_a_folder_that_others_may_change_is_refused(tmp_path: Path) -> None:
    (tmp_path / "kbs").mkdir()
    (tmp_path / "kbs").chmod(0o777)
    with pytest.raises(PlatformError, match="can be changed by others"):
        write_file(tmp_path, ("kbs", "x"), Secret(b""))


async def test_a_late_agent_is_waited_for(tmp_path: Path) -> None:
    late = InitialisationError("no agent")
    late.__cause__ = UnreachableError("no socket")
    resources = Resources({"kbs:///a/b/c": b"x"}, late, UnreachableError("KBS is down"))
    await store(tmp_path, resources, entry(f"{tmp_path}/kbs/x"))
    assert (tmp_path / "kbs" / "x").read_bytes() == b"x"
    assert resources.calls == 3


async def test_all_are_fetched_side_by_side(tmp_path: Path) -> None:
    entries = [entry(f"{tmp_path}/kbs/{number}") for number in range(20)]

    class Together(Resources):
        together = asyncio.Barrier(20)

        async def fetch(self, uri: ResourceUri, deadline: Deadline) -> Secret:
            await self.together.wait()
            return await super().fetch(uri, deadline)

    await store(tmp_path, Together({"kbs:///a/b/c": b"x"}), *entries)
    assert len(list((tmp_path / "kbs").iterdir())) == 20


async def test_when_one_cannot_be_had_none_is_stored(tmp_path: Path) -> None:
    resources = Resources({"kbs:///a/b/c": b"x"})
    late = asyncio.Event()

    class Last(Resources):
        async def fetch(self, uri: ResourceUri, deadline: Deadline) -> Secret:
            if uri.path == "a/b/c":
                late.set()
                return await resources.fetch(uri, deadline)
            await late.wait()
            raise DeniedError("policy")

    entries = [entry(f"{tmp_path}/kbs/x"), entry(f"{tmp_path}/kbs/y", "kbs:///a/b/d")]
    with pytest.raises(ConfigError, match="kbs:///a/b/d: policy"):
        await store(tmp_path, Last({}), *entries)
    assert list(tmp_path.iterdir()) == []


def test_a_write_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: object, **options: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "rename", full)
    with pytest.raises(PlatformError, match=r"cannot write .*/kbs/x: No space left on device"):
        write_file(tmp_path, ("kbs", "x"), Secret(b"secret"))
    assert list((tmp_path / "kbs").iterdir()) == []


async def test_retries_end_with_the_deadline(tmp_path: Path) -> None:
    failures = [UnreachableError("KBS is down") for _ in range(100)]
    resources = Resources({}, *failures)
    placements = plan([entry(f"{tmp_path}/kbs/x")], tmp_path)
    with pytest.raises(ConfigError, match="kbs:///a/b/c: KBS is down"):
        await fetch_and_store(placements, resources, tmp_path, Deadline.after(0.5))
    assert 1 < resources.calls < 10


@pytest.mark.parametrize(
    ("failure", "text"),
    [
        (DeniedError("policy"), "init Hub failed: kbs client get resource failed: .*policy"),
        (InitialisationError("bad"), "init Hub failed: kbs client creation failed: .*bad"),
    ],
)
async def test_a_final_failure_ends_the_start(
    tmp_path: Path, failure: Exception, text: str
) -> None:
    resources = Resources({}, failure)
    with pytest.raises(ConfigError, match=text):
        await store(tmp_path, resources, entry(f"{tmp_path}/kbs/x"))
    assert resources.calls == 1
