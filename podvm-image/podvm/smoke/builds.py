"""What is built once more and compared: the production variant, and an extension image.

Source: docs/spec/podvm-image.md 13.3, 16 (5), 17 (S18).
"""

import os
import shutil
import tempfile
from pathlib import Path
from typing import Final

from podvm import extension, extension_disk
from podvm.build import Options, build
from podvm.places import IMAGE, OUTPUT, PROJECT
from podvm.smoke.site import Results
from podvm.smoke.table import Result

PACKAGES: Final = ("guest", "attestation_agent")
MANIFEST: Final = """\
schema_version = 1
[paths]
ocicrypt-config = "etc/ocicrypt_config.json"
[[process]]
id = "attestation-agent"
level = 1
path = "attestation_agent/main.py"
"""


def built_again() -> Results:
    """Production and an extension image built once more, elsewhere; every output compared.

    Raises:
        ImageError: a build failed.
    """
    with tempfile.TemporaryDirectory(prefix="podvm-again-") as name:
        place = Path(name)
        again = build(Options(variant="production", output=place))
        found = {"S18": differing(OUTPUT / "production", again)}
        places = [extension_built(place / "one"), extension_built(place / "else/where", epoch=1)]
        found["extension"] = [
            name
            for name in (extension_disk.IMAGE_NAME, extension_disk.PARAMETERS_NAME)
            if places[0].joinpath(name).read_bytes() != places[1].joinpath(name).read_bytes()
        ]
    return {
        f"build.{name}": Result(good=not bad, detail=f"differ: {bad}" if bad else "identical")
        for name, bad in found.items()
    }


def differing(one: Path, other: Path) -> list[str]:
    """Names of outputs that differ, by their recorded digests."""
    lines = [set((place / "sha256sums").read_text().splitlines()) for place in (one, other)]
    return sorted({line.split()[1] for line in lines[0] ^ lines[1]})


def extension_built(place: Path, *, epoch: int | None = None) -> Path:
    """The disk of an extension with our files; the directory of its results.

    Args:
        place: an empty directory, made here.
        epoch: seconds, the time of every file of the tree; without, the time at which it is made.

    Raises:
        ImageError: it cannot be packed.
    """
    tree, output = place / "tree", place / "output"
    shutil.copytree(IMAGE / "tree", tree, symlinks=True)
    for name in PACKAGES:
        shutil.copytree(PROJECT / name, tree / name, ignore=shutil.ignore_patterns("__pycache__"))
    (tree / extension.FILE).parent.mkdir(parents=True)
    (tree / extension.FILE).write_text(MANIFEST)
    for path in tree.rglob("*"):
        os.utime(path, None if epoch is None else (epoch, epoch), follow_symlinks=False)
    extension_disk.write(extension_disk.pack(tree, place), output)
    return output
