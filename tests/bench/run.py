"""Measures the bars of docs/ARCHITECTURE.md on this machine: a table, and `build/bench.json`.

`cd tests && python -m bench.run [NAME...]` measures only the named parts.
"""

import argparse
import importlib
import json
import os
import sys
import time
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.table import Table

from bench.row import Row

PARTS: Final = ("start", "agent", "resources", "echo", "pull", "images", "pull_faults")
RESULT: Final = Path(__file__).resolve().parents[2] / "build" / "bench.json"


def main() -> int:
    """Measure, print, write; exit status 0 whether or not the bars hold."""
    parser = argparse.ArgumentParser(prog="make bench", description=main.__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}; all")
    options = parser.parse_args()
    unknown = [part for part in options.parts if part not in PARTS]
    if unknown:
        parser.error(f"unknown part {unknown[0]}: one of {', '.join(PARTS)}")
    rows: list[Row] = []
    for part in options.parts or PARTS:
        started = time.monotonic()
        print(f"measuring {part} ...", end=" ", file=sys.stderr, flush=True)
        rows += importlib.import_module(f"bench.{part}").rows()
        print(f"{time.monotonic() - started:.0f} s", file=sys.stderr, flush=True)
    _show(rows)
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps([_as_json(row) for row in rows], indent=1) + "\n")
    print(f"written to {os.path.relpath(RESULT)}")
    return 0


def _as_json(row: Row) -> dict[str, object]:
    return {
        "name": row.name,
        "bar": row.bar,
        "value": round(row.value, 4),
        "unit": row.unit,
        "peer": row.peer,
        "holds": row.holds,
    }


def _show(rows: list[Row]) -> None:
    table = Table("what", "bar", "value", "", "against")
    for row in rows:
        bar = "" if row.bar is None else f"{row.kind} {row.bar:g} {row.unit}"
        table.add_row(row.name, bar, f"{row.value:.3g} {row.unit}", row.verdict(), row.peer)
    Console(width=None if sys.stdout.isatty() else 160).print(table)


if __name__ == "__main__":
    sys.exit(main())
