"""Every file system that Debian's tools bootstrap: skopeo, umoci and we unpack it alike."""

import asyncio
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from support import debian_trees
from support.unpackers import compare

pytestmark = [
    pytest.mark.root,
    pytest.mark.mount,
    pytest.mark.skopeo,
    pytest.mark.umoci,
    pytest.mark.debootstrap,
]

CHOSEN: Final = os.environ.get("DEBIAN_TREES", "minbase").split()
"""Names of `debian_trees.TREES`; the others take minutes each to bootstrap, and gigabytes."""


@pytest.fixture
def memory(tmp_path: Path) -> Iterator[Path]:
    """A directory in memory, where packages are installed and read faster."""
    if not os.access("/dev/shm", os.W_OK) or shutil.disk_usage("/dev/shm").free < 8 << 30:
        yield tmp_path
        return
    path = Path(tempfile.mkdtemp(prefix="trees", dir="/dev/shm"))
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", CHOSEN)
async def test_a_bootstrapped_debian_becomes_one_tree_whoever_unpacks_it(
    name: str, memory: Path
) -> None:
    layout = memory / "layout"
    await asyncio.to_thread(debian_trees.make_tree, name, memory / "tree")
    bundle = await asyncio.to_thread(debian_trees.one_layer, memory / "tree", layout, memory)
    (memory / "one").mkdir()
    rows = await compare(layout, "one", memory / "one", gzip_tag="one")
    assert rows["dev/null"].device == (1, 3)
    assert len(rows) > 3000
    shutil.rmtree(memory / "one")
    await asyncio.to_thread(debian_trees.more_layers, layout, bundle, memory)
    rows = await compare(layout, "several", memory, gzip_tag="several")
    assert rows["opt/tac-too"].xattrs[0][0] == "security.capability"
    assert {path for path in rows if path.startswith("usr/share/doc/")} == {"usr/share/doc/new"}
    assert rows["odd/loop"].device == (7, 300)
