"""Files that the command line tools are given by name."""

from pathlib import Path
from typing import Final

from guest.errors import InvalidInputError, LimitError
from guest.secret import Secret

MAX_LENGTH: Final = 4 * 1024 * 1024
"""Most bytes of one file: what fits into a call."""


def read_given(path: Path, limit: int = MAX_LENGTH) -> Secret:
    """The content of a file, which may be a pipe.

    Raises:
        InvalidInputError: it cannot be read.
        LimitError: it has more than `limit` bytes.
    """
    try:
        with path.open("rb") as file:
            content = file.read(limit + 1)
    except (OSError, ValueError) as error:
        raise InvalidInputError(f"{path} cannot be read") from error
    if len(content) > limit:
        raise LimitError(f"{path} has more than {limit} bytes")
    return Secret(content)
