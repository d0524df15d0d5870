"""Fuzz targets and the plain mutation driver that runs them where atheris cannot.

A target is `tests/fuzz/fuzz_<name>.py` with `one_input(data: bytes) -> None`, which raises for a
bug only; `SEEDS`, a tuple of `bytes`, is optional, and so are the files of
`tests/fuzz/corpus/<name>/`. The driver knows nothing of coverage: it mutates and splices seeds.
"""

import hashlib
import importlib.util
import random
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Final

ROOT: Final = Path(__file__).resolve().parent.parent
FOLDER: Final = ROOT / "tests" / "fuzz"
MAX_LENGTH: Final = 1 << 16
"""Bytes of the longest input that the driver makes."""

HANG_SECONDS: Final = 10
"""Whole seconds that one input may take."""

INTERESTING: Final = (
    b"\x00",
    b"\xff",
    b"\x7f",
    b"\x80",
    b"\xff\xff\xff\xff",
    b"\x00\x00\x00\x00",
    b"\x80\x00\x00\x00",
    b"\x7f\xff\xff\xff",
    b"\xff" * 8,
    b"%00",
    b"../",
    b"\xc0\x80",
    b'{"":[',
    b"=",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """One decoder under test.

    Attributes:
        name: what follows `fuzz_` in its file's name.
        one_input: raises for a bug only.
        seeds: valid or nearly valid inputs; never empty.
    """

    name: str
    one_input: Callable[[bytes], None]
    seeds: tuple[bytes, ...]


class HangError(Exception):
    """One input took longer than `HANG_SECONDS`."""


def names() -> list[str]:
    """The names of all targets, sorted."""
    return sorted(path.stem.removeprefix("fuzz_") for path in FOLDER.glob("fuzz_*.py"))


def load(name: str) -> Target:
    """Import a target and gather its seeds."""
    for extra in (ROOT, *(ROOT / name for name in ("tests", "simulator", "podvm-image"))):
        if str(extra) not in sys.path:
            sys.path.append(str(extra))
    spec = importlib.util.spec_from_file_location(f"fuzz_{name}", FOLDER / f"fuzz_{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    seeds = list(getattr(module, "SEEDS", ()))
    corpus = FOLDER / "corpus" / name
    seeds += [path.read_bytes() for path in sorted(corpus.glob("*"))] if corpus.is_dir() else []
    return Target(name=name, one_input=module.one_input, seeds=tuple(seeds) or (b"", b"\x00"))


def mutate(source: random.Random, seeds: tuple[bytes, ...]) -> bytes:
    """Make one input: a seed with one to six random edits, sometimes noise alone."""
    if source.random() < 0.05:
        return source.randbytes(source.randrange(64))
    data = bytearray(source.choice(seeds))
    for _ in range(source.randint(1, 6)):
        at = source.randrange(len(data) + 1)
        match source.randrange(7):
            case 0 if data:
                data[at % len(data)] ^= 1 << source.randrange(8)
            case 1 if data:
                data[at % len(data)] = source.randrange(256)
            case 2:
                data[at:at] = source.choice(INTERESTING)
            case 3:
                del data[at : at + source.randint(1, 8)]
            case 4:
                piece = source.choice(INTERESTING)
                data[at : at + len(piece)] = piece
            case 5:
                data[at : at + source.randrange(9)] = data[at : at + source.randrange(33)]
            case _:
                other = source.choice(seeds)
                data[at:] = other[source.randrange(len(other) + 1) :]
    return bytes(data[:MAX_LENGTH])


@contextmanager
def _hang_limit() -> Iterator[None]:
    def stop(signum: int, frame: FrameType | None) -> None:
        raise HangError(f"one input took {HANG_SECONDS} s")

    previous = signal.signal(signal.SIGALRM, stop)
    signal.alarm(HANG_SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, previous)


def drive(target: Target, *, seconds: float, iterations: int) -> int:
    """Run seeds, their truncations, then mutations until one of the two limits; give the count.

    The sequence depends on the target's name alone. The failing input is in the note of the
    exception that leaves here.
    """
    source = random.Random(target.name)
    ends = time.monotonic() + seconds
    fixed = [seed[:length] for seed in target.seeds for length in {len(seed), len(seed) // 2, 1, 0}]
    count = 0
    while count < iterations and time.monotonic() < ends:
        data = fixed[count] if count < len(fixed) else mutate(source, target.seeds)
        count += 1
        try:
            with _hang_limit():
                target.one_input(data)
        except BaseException as error:
            error.add_note(f"fuzz target {target.name}, input {data!r}")
            save(target.name, data)
            raise
    return count


def save(name: str, data: bytes) -> Path:
    """Keep a failing input under build/fuzz."""
    path = ROOT / "build" / "fuzz" / name / f"crash-{hashlib.sha256(data).hexdigest()[:16]}"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path
