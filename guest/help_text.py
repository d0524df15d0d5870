"""How `--help` of a daemon looks: as wide as the terminal, the description as it was written.

`argparse` asks its formatter for something at every argument that is added, and its own one loads
`shutil` and with it three libraries of compression: a tenth of what a daemon imports by itself.
"""

import argparse
import os
from typing import Final

DEFAULT_COLUMNS: Final = 80
MAX_DIGITS: Final = 4
MARGIN: Final = 2
"""Columns that stay empty."""


class HelpText(argparse.RawDescriptionHelpFormatter):
    """The formatter."""

    def __init__(self, prog: str, columns: str | None = None) -> None:
        """Look how wide it may be.

        Args:
            prog: name of the command.
            columns: the environment's variable of this name.
        """
        super().__init__(prog, width=find_columns(columns or "") - MARGIN)


def find_columns(told: str) -> int:
    """Columns of the terminal.

    Args:
        told: the environment's variable; what is no number, 0, or absurd does not count.
    """
    if told.isdecimal() and len(told) <= MAX_DIGITS and int(told) > 0:
        return int(told)
    try:
        return os.get_terminal_size(1).columns or DEFAULT_COLUMNS
    except OSError:
        return DEFAULT_COLUMNS
