"""The escape corpus through the real pull: whatever a layer tries, nothing outside changes."""

import asyncio
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from guest.deadline import Deadline
from guest.errors import GuestError
from guest_simulator.images.entries import Entry, Kind
from guest_simulator.images.image import Layer, build_image
from guest_simulator.registry.server import Registry
from image_pull.component import build_puller
from image_pull.config import ImageConfig
from image_pull.layers.record import Jail
from image_pull.puller import ImagePuller
from image_pull.registry.rules import RegistriesTable
from image_pull.store.layers import TREE
from support.escapes import Escape, escapes, everything, make_canary, wrong_inside
from support.pulling import Resources, insecure, left_in_store

NOBODY = 65534
ROOT = os.geteuid() == 0
NAMES = [escape.name for escape in escapes(Path("/canary"))]
MOUNTED = pytest.param(True, marks=[pytest.mark.root, pytest.mark.mount], id="mounted")
COPIED = pytest.param(False, marks=pytest.mark.root, id="copied")

DRIVER = """
import asyncio, json, sys
from pathlib import Path
import msgspec
from guest.deadline import Deadline
from guest.errors import GuestError
from image_pull.component import build_puller
from image_pull.config import ImageConfig
from image_pull.puller import ImagePuller
from image_pull.registry.rules import RegistriesTable

class Jails:
    def __init__(self): self.chosen = []
    def __getattr__(self, name): return lambda *_, **__: None
    def jail_chosen(self, jail): self.chosen.append(str(jail.value))

async def main(base, host, names):
    rules = msgspec.convert({"registry": [{"location": host, "insecure": True}]}, RegistriesTable)
    config = ImageConfig(work_dir=f"{base}/work", registry_config=rules)
    jails = Jails()
    puller = build_puller(config, resources=None, keys=None, observer=jails)
    said = {}
    for name in names:
        try:
            bundle = Path(base, "bundles", name)
            await puller.pull(f"{host}/t/{name}:v1", bundle, deadline=Deadline.after(40))
            said[name] = None
        except GuestError as error:
            said[name] = ": ".join(error.causes())
    await puller.close()
    print(json.dumps({"said": said, "jails": jails.chosen}))

asyncio.run(main(sys.argv[1], sys.argv[2], sys.argv[3:]))
"""


@pytest.fixture
def base() -> Iterator[Path]:
    """A directory in memory: store, bundles and the canary side by side."""
    path = Path(tempfile.mkdtemp(prefix="cg", dir="/dev/shm"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path, ignore_errors=True)


def push(registry: Registry, corpus: list[Escape]) -> None:
    first = Layer(entries=(Entry(kind=Kind.FILE, path="file", data=b"of another image"),))
    registry.push_image("t/first:v1", build_image([first]))
    for escape in corpus:
        registry.push_image(f"t/{escape.name}:v1", build_image(escape.raw))


async def failure_of(puller: ImagePuller, reference: str, bundle: Path) -> str | None:
    """Why a pull failed; None where it did not."""
    try:
        await puller.pull(reference, bundle, deadline=Deadline.after(50))
    except GuestError as error:
        return ": ".join(error.causes())
    return None


def stored(work_dir: Path) -> dict[str, tuple[object, ...]]:
    """The trees of the layers in a store."""
    trees = [path for path in work_dir.rglob(TREE) if path.is_dir()]
    assert trees
    return {f"{tree}/{name}": row for tree in trees for name, row in everything(tree).items()}


@pytest.mark.spec("image-pull", 37, 38, 40)
@pytest.mark.parametrize("mounted", [MOUNTED, COPIED])
@pytest.mark.parametrize("name", NAMES)
async def test_nothing_outside_changes_in_the_full_jail(
    name: str, mounted: bool, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not mounted:
        monkeypatch.setattr("image_pull.store.overlay.Overlays.why_not", lambda self: "test")
    make_canary(base / "canary", NOBODY)
    corpus = [each for each in escapes(base / "canary") if each.name == name]
    before = everything(base / "canary")
    async with Registry() as registry:
        push(registry, corpus)
        rules = msgspec.convert(insecure(registry.host), RegistriesTable)
        config = ImageConfig(work_dir=str(base / "work"), registry_config=rules)
        puller = build_puller(config, resources=Resources(), keys=None)
        try:
            first = f"{registry.host}/t/first:v1"
            assert await failure_of(puller, first, base / "first") is None
            neighbour = stored(base / "work")
            reference = f"{registry.host}/t/{name}:v1"
            failure = await failure_of(puller, reference, base / "bundle")
            assert (failure is not None) == corpus[0].refused, failure
            if failure is None:
                assert wrong_inside(base / "bundle" / "rootfs", corpus[0]) == []
            assert left_in_store(base / "work") == []
            assert everything(base / "canary") == before
            assert neighbour.items() <= stored(base / "work").items()
        finally:
            for bundle in ("bundle", "first"):
                await puller.discard(base / bundle)
            await puller.close()
    assert everything(base / "canary") == before


async def test_nothing_outside_changes_where_the_puller_has_no_privileges(base: Path) -> None:
    owner = NOBODY if ROOT else os.getuid()
    if ROOT and shutil.which("setpriv") is None:
        pytest.skip("no setpriv (Debian package util-linux)")
    if ROOT:
        os.chown(base, NOBODY, NOBODY)
    make_canary(base / "canary", owner)
    corpus = escapes(base / "canary")
    before = everything(base / "canary")
    async with Registry() as registry:
        push(registry, corpus)
        said = await _pull_as_nobody(base, registry.host)
    assert everything(base / "canary") == before
    assert Jail.FULL.value not in said["jails"]
    wrong = {}
    for escape in corpus:
        failure = said["said"][escape.name]
        if (failure is not None) != escape.refused:
            wrong[escape.name] = [failure]
        elif failure is None:
            rootfs = base / "bundles" / escape.name / "rootfs"
            wrong[escape.name] = wrong_inside(rootfs, escape)
    assert {name: why for name, why in wrong.items() if why} == {}


async def _pull_as_nobody(base: Path, host: str) -> dict[str, Any]:
    # the interpreter may lie where only root can read: that is all that is left of root
    drop = (
        "setpriv",
        f"--reuid={NOBODY}",
        f"--regid={NOBODY}",
        "--clear-groups",
        "--bounding-set=-all,+dac_read_search",
        "--inh-caps=-all,+dac_read_search",
        "--ambient-caps=-all,+dac_read_search",
    )
    command = (*(drop if ROOT else ()), sys.executable, "-c", DRIVER, str(base), host, *NAMES)
    process = await asyncio.create_subprocess_exec(
        *command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=Path(__file__).resolve().parents[4],
        env={"PATH": os.environ["PATH"], "HOME": str(base), "LC_ALL": "C.UTF-8"},
    )
    printed, complained = await process.communicate()
    assert process.returncode == 0, complained.decode(errors="replace")
    found: dict[str, Any] = json.loads(printed.splitlines()[-1])
    return found
