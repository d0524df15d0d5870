"""Every fuzz target survives its seeds and some thousand mutations of them."""

import random
from pathlib import Path
from typing import Final

import pytest

from tools import fuzzing

SECONDS: Final = 6.0
ITERATIONS: Final = 3000


@pytest.mark.shows_secrets  # whatever a target decodes, secret members too, is made of its input
@pytest.mark.parametrize("name", fuzzing.names())
def test_the_target_finds_no_bug(name: str) -> None:
    assert fuzzing.drive(fuzzing.load(name), seconds=SECONDS, iterations=ITERATIONS) > 0


def test_the_driver_finds_a_planted_bug_and_keeps_its_input(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(fuzzing, "ROOT", tmp_path)

    def one_input(data: bytes) -> None:
        if len(data) > 3 and data[2] == 0xFF:
            raise ValueError("planted")

    target = fuzzing.Target(name="planted", one_input=one_input, seeds=(b"abcdef",))
    with pytest.raises(ValueError, match="planted") as caught:
        fuzzing.drive(target, seconds=SECONDS, iterations=100_000)
    assert "fuzz target planted, input" in caught.value.__notes__[0]
    assert len(list((tmp_path / "build" / "fuzz" / "planted").iterdir())) == 1


def test_a_mutation_never_outgrows_the_limit() -> None:
    source = random.Random(1)
    seeds = (bytes(fuzzing.MAX_LENGTH), b"", b"x")
    assert all(len(fuzzing.mutate(source, seeds)) <= fuzzing.MAX_LENGTH for _ in range(300))
