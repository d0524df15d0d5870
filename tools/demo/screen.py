"""What the demo prints: numbered steps with their times, and a bar while the image is pulled."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

WIDTH: Final = 78
"""Columns of a step's line when the output is no terminal."""


class Screen:
    """Prints for people; plain lines where standard output is not a terminal."""

    def __init__(self) -> None:
        self._console = Console(
            highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else WIDTH
        )
        self._number = 0
        self.started = time.monotonic()

    @contextmanager
    def step(self, title: str) -> Iterator[list[str]]:
        """One step; what the block appends to the list is printed under it."""
        self._number += 1
        notes: list[str] = []
        started = time.monotonic()
        self._console.print(f"[bold]{self._number:2}. {title}[/bold]")
        yield notes
        for note in notes:
            self.note(note)
        self._console.print(f"    [green]done[/green] in {time.monotonic() - started:.2f} s")

    def note(self, text: str) -> None:
        """An indented line, printed as it is."""
        self._console.print(f"    {text}", markup=False)

    def command(self, words: list[str]) -> None:
        """A command that the demo runs, as a person would type it."""
        self._console.print(f"    $ {' '.join(words)}", markup=False, style="cyan")

    def line(self, text: str = "") -> None:
        """A line at the margin."""
        self._console.print(text, markup=False)

    def verdict(self, text: str) -> None:
        """The last line."""
        self._console.print(text, markup=False, style="bold green")

    @contextmanager
    def bar(self, total: int) -> Iterator["Bar"]:
        """A bar of bytes while the block runs; one summary line where there is no terminal."""
        columns = (
            TextColumn("    pulling"),
            BarColumn(bar_width=30),
            DownloadColumn(),
            TimeRemainingColumn(),
        )
        shown = self._console.is_terminal
        with Progress(*columns, console=self._console, disable=not shown) as progress:
            bar = Bar(progress, total)
            yield bar
        if not shown:
            self.note(f"pulled {bar.done:,} of {total:,} bytes")


class Bar:
    """The bar of one pull."""

    def __init__(self, progress: Progress, total: int) -> None:
        self._progress = progress
        self._task = progress.add_task("pull", total=total)
        self._total = total
        self.done = 0

    def update(self, done: int) -> None:
        """Show that `done` bytes have arrived, at most the total."""
        self.done = min(done, self._total)
        self._progress.update(self._task, completed=self.done)
