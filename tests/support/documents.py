"""Documents of vendors: the real files where somebody has them, else built field by field.

`--real-documents DIR` (`make conformance FIXTURES=DIR`) names a directory with the verifier's test
data; files are found in it by name, at any depth. A test asks `documents.get(name, build)` and says
with `@pytest.mark.spec(page, n, built=True)` that without the files it proves its checks on built
data.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest

OPTION: Final = "--real-documents"


@dataclass(frozen=True, slots=True)
class Documents:
    """Where documents come from.

    Attributes:
        directory: of the real files; None where there is none.
    """

    directory: Path | None

    @property
    def are_real(self) -> bool:
        """Whether documents are the vendors' own."""
        return self.directory is not None

    def get(self, name: str, build: Callable[[], bytes]) -> bytes:
        """The real file, or what `build` makes; skips the test when the directory lacks the file.

        Args:
            name: of the file, as the specification page spells it.
            build: makes a document of the same layout.
        """
        if self.directory is None:
            return build()
        found = _files(self.directory).get(Path(name).name)
        if found is None:
            pytest.skip(f"[fixtures] no {name} below {self.directory}")
        return found.read_bytes()


@functools.cache
def _files(directory: Path) -> dict[str, Path]:
    return {path.name: path for path in sorted(directory.rglob("*")) if path.is_file()}


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add `--real-documents`."""
    parser.addoption(OPTION, metavar="DIR", help="directory with vendors' real documents")


def directory_of(config: pytest.Config) -> Path | None:
    """The directory of the real files, if the command line names one."""
    text = config.getoption(OPTION, default=None)
    if not text:
        return None
    directory = Path(text).resolve()
    if not directory.is_dir():
        raise pytest.UsageError(f"{OPTION} {text}: no such directory")
    return directory


@pytest.fixture
def documents(request: pytest.FixtureRequest) -> Documents:
    """Real documents or built ones."""
    return Documents(directory_of(request.config))
