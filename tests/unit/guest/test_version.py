"""The version at hand is the distribution's."""

import tomllib
from pathlib import Path

from guest.version import VERSION


def test_the_version_is_that_of_the_distribution(repository: Path) -> None:
    project = tomllib.loads((repository / "pyproject.toml").read_text("utf-8"))["project"]
    assert project["version"] == VERSION
