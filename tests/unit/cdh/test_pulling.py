"""The puller inside CDH is made at the first pull, once, and gets at resources in process."""

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest

from cdh import pulling
from cdh.keyprovider.unwrap import LayerKeys
from cdh.kms import open_decrypter
from cdh.pulling import LatePuller, PullerResources
from guest.deadline import Deadline
from guest.errors import GuestError, InvalidInputError
from image_pull.config import ImageConfig
from image_pull.layers.pipeline import LayerPipeline
from image_pull.observer import Unobserved
from image_pull.puller import ImagePuller
from support.hub_world import Resources


def late(work_dir: Path) -> LatePuller:
    resources = Resources()
    config = ImageConfig(work_dir=str(work_dir))
    return LatePuller(config, resources, LayerKeys(resources, open_decrypter), Unobserved())


async def test_callers_at_the_same_time_get_one_puller_that_touched_nothing(
    tmp_path: Path,
) -> None:
    work_dir = tmp_path / "store"
    puller = late(work_dir)
    await puller.close()
    async with asyncio.TaskGroup() as tasks:
        asked = [tasks.create_task(puller.get(), name=f"get {n}") for n in range(5)]
    assert len({id(task.result()) for task in asked}) == 1
    assert not work_dir.exists()
    await puller.close()


async def test_the_real_puller_s_texts_are_those_that_peers_look_for(tmp_path: Path) -> None:
    opened = late(tmp_path / "store")
    puller = await opened.get()
    with pytest.raises(GuestError, match=r"^Image Pull error: Illegal image reference"):
        await puller.pull("A B", tmp_path / "bundle", deadline=Deadline.after(10))
    await opened.close()


async def test_what_takes_long_to_start_is_started_before_a_pull_and_no_file_touched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started = []
    monkeypatch.setattr(LayerPipeline, "start", lambda self: started.append(self))
    opened = late(tmp_path / "store")
    await opened.prepare()
    await opened.prepare()
    assert len(started) == 2
    assert started[0] is started[1]
    assert not any(tmp_path.iterdir())
    await opened.close()


async def test_resources_are_read_by_their_uri_and_others_are_refused() -> None:
    resources = PullerResources(Resources())
    found = await resources.fetch("kbs:///default/key/1", Deadline.after(5))
    assert found.reveal() == b"key1"
    with pytest.raises(InvalidInputError):
        await resources.fetch("kbs:///default/../key/1", Deadline.after(5))


async def test_the_store_is_tidied_now_and_then_once_there_is_a_puller(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pulling, "TIDY_SECONDS", 0.01)
    opened, stop, tidied = late(tmp_path / "store"), asyncio.Event(), asyncio.Event()

    async def tidy(self: ImagePuller) -> None:
        tidied.set()

    monkeypatch.setattr(ImagePuller, "tidy", tidy)
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(opened.run(stop), name="run")
        await asyncio.sleep(0.05)
        assert not tidied.is_set()
        await opened.get()
        await tidied.wait()
        stop.set()
    await opened.close()


def test_importing_the_component_does_not_import_the_puller() -> None:
    script = "import sys, cdh.component; print([m for m in sys.modules if m.startswith('image_')])"
    root = Path(__file__).resolve().parent.parent.parent.parent
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=root, capture_output=True, text=True, timeout=60
    )
    assert "image_pull.config" in done.stdout
    assert "image_pull.component" not in done.stdout
    assert "image_pull.puller" not in done.stdout
