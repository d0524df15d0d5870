"""What the puller's records say of owners, devices and xattrs that an unprivileged disk lacks."""

import os
import stat
from collections.abc import Sequence
from pathlib import Path

from image_pull.layers.record import LayerRecord
from tools.demo.compare import Facts


def recorded_facts(
    store: Path, diff_ids: Sequence[str], paths: set[str]
) -> dict[bytes, Facts] | None:
    """The facts for each path that the layer which decides over it recorded.

    Args:
        store: the puller's work directory.
        diff_ids: of the image's layers, lowest first.
        paths: of the final root filesystem.

    Returns:
        None when everything is on disk.
    """
    found: dict[str, tuple[Path, LayerRecord]] = {}
    for file in (store / "unpacked").glob("*/record"):
        record = LayerRecord.decode(file.read_bytes())
        found[record.diff_id] = (file.parent / "tree", record)
    layers = [found[diff_id] for diff_id in reversed(diff_ids)]
    if all(record.privileged for _, record in layers):
        return None
    said = [(tree, _by_path(record)) for tree, record in layers]
    facts: dict[bytes, Facts] = {}
    for path in paths:
        name = os.fsencode(path)
        for tree, recorded in said:
            if name in recorded:
                facts[name] = recorded[name]
                break
            if os.path.lexists(tree / path):
                break
    return facts


def _by_path(record: LayerRecord) -> dict[bytes, Facts]:
    facts = {
        kept.path: Facts(uid=kept.uid, gid=kept.gid, mode=kept.mode, xattrs=kept.xattrs)
        for kept in record.kept
    }
    for device in record.devices:
        facts[device.path] = Facts(
            uid=device.uid,
            gid=device.gid,
            mode=stat.S_IMODE(device.mode),
            device=(stat.S_IFMT(device.mode), device.major, device.minor),
            xattrs=device.xattrs,
        )
    return facts
