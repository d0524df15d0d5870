"""Where things are: the sources of the image, the cache, the outputs."""

import os
from pathlib import Path
from typing import Final

IMAGE: Final = Path(__file__).resolve().parent.parent
"""The folder `podvm-image`."""

PROJECT: Final = IMAGE.parent
OUTPUT: Final = IMAGE / "build"


def cache() -> Path:
    """Packages, wheels and bootstrapped trees: `COCO_IMAGE_CACHE`, else below the user's cache."""
    named = os.environ.get("COCO_IMAGE_CACHE")
    if named:
        return Path(named).resolve()
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "coco-guest-image"
