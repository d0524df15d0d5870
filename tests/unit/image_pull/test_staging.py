"""Staging directories of layers under way."""

import asyncio
import contextlib
import threading
from pathlib import Path

import msgspec
import pytest

from guest.deadline import Deadline
from guest_simulator.images.entries import Entry, Kind
from guest_simulator.images.image import Layer, build_image
from guest_simulator.registry.server import Registry
from image_pull.registry.rules import RegistriesTable
from image_pull.store.layers import LayerStore
from support.pulling import insecure, left_in_store, plain_puller


async def test_a_pull_that_is_cancelled_while_its_directory_is_made_leaves_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, go = threading.Event(), threading.Event()
    real = LayerStore.stage

    def slow(self: LayerStore) -> Path:
        path = real(self)
        made.set()
        assert go.wait(30)
        return path

    monkeypatch.setattr(LayerStore, "stage", slow)
    image = build_image([Layer(entries=(Entry(kind=Kind.FILE, path="a", data=b"x"),))])
    async with Registry() as registry:
        registry.push_image("demo/app:v1", image)
        rules = msgspec.convert(insecure(registry.host), RegistriesTable)
        async with plain_puller(tmp_path / "work", registry_config=rules) as puller:
            pulling = asyncio.create_task(
                puller.pull(
                    f"{registry.host}/demo/app:v1",
                    tmp_path / "bundle",
                    deadline=Deadline.after(40),
                ),
                name="pull",
            )
            assert await asyncio.to_thread(made.wait, 30)
            assert len(left_in_store(tmp_path / "work")) == 1
            pulling.cancel()
            asyncio.get_running_loop().call_later(0.05, go.set)
            with contextlib.suppress(asyncio.CancelledError):
                await pulling
        assert left_in_store(tmp_path / "work") == []
