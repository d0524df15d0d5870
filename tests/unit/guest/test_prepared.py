"""Threads that decode into one new type at once: `msgspec` alone ends the process."""

import subprocess
import sys

import msgspec
import pytest

from guest.prepared import prepared
from support.agents import ROOT

THREADS = f"""
import sys, threading
sys.path.insert(0, {str(ROOT)!r})
import msgspec
from guest.prepared import prepared
sys.setswitchinterval(1e-6)
for number in range(100):
    inner = msgspec.defstruct("Inner", [(f"x{{n}}", int | None, None) for n in range(20)])
    outer = msgspec.defstruct("Outer", [("inner", inner)])
    at_once = threading.Barrier(3)
    def decode(kind):
        at_once.wait()
        msgspec.json.decode(b'{{"inner":{{"x19":3}}}}', type=prepared(kind))
    threads = [threading.Thread(target=decode, args=(outer,)) for _ in range(3)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
"""


def test_threads_decode_into_a_new_type_at_once() -> None:
    done = subprocess.run([sys.executable, "-I", "-c", THREADS], capture_output=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, b"")


def test_a_type_that_cannot_be_decoded_into_is_an_error_each_time() -> None:
    class TwoSequences(msgspec.Struct):
        values: list[int] | set[int]

    for _ in range(2):
        with pytest.raises(TypeError, match="more than one"):
            prepared(TwoSequences)


def test_it_is_the_same_type() -> None:
    class Point(msgspec.Struct):
        x: int

    assert prepared(Point) is Point
    assert prepared(Point) is Point
