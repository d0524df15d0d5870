"""CBOR: the published examples, and any bytes."""

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attestation_agent.reports.cbor import MAX_DEPTH, Tagged, Value, decode
from guest.errors import DecodeError
from guest_simulator.devices.realm import Tag, encode

EXAMPLES: list[tuple[str, Value]] = [
    ("00", 0),
    ("17", 23),
    ("1818", 24),
    ("1903e8", 1000),
    ("1bffffffffffffffff", 18446744073709551615),
    ("3bffffffffffffffff", -18446744073709551616),
    ("3903e7", -1000),
    ("f4", False),
    ("f5", True),
    ("f6", None),
    ("f90000", None),
    ("c11a514b67b0", Tagged(1, 1363896240)),
    ("4401020304", b"\1\2\3\4"),
    ("62c3bc", "ü"),
    ("83018202039f0405ff", (1, (2, 3), (4, 5))),
    ("a201020304", {1: 2, 3: 4}),
    ("a26161016162820203", {"a": 1, "b": (2, 3)}),
    ("5f42010243030405ff", b"\1\2\3\4\5"),
    ("7f657374726561646d696e67ff", "streaming"),
    ("bf61610161629f0203ffff", {"a": 1, "b": (2, 3)}),
    ("9fff", ()),
]
"""RFC 8949 appendix A."""


@pytest.mark.parametrize(("text", "value"), EXAMPLES)
def test_the_published_examples_decode(text: str, value: Value) -> None:
    assert decode(bytes.fromhex(text)) == value


@pytest.mark.parametrize(
    "text",
    [
        "", "18", "1c", "0000", "ff", "5f4101", "5f6161ff", "5f5f4101ffff", "1f", "df00ff", "61ff",
        "9b7fffffffffffffff", "bb7fffffffffffffff", "5bffffffffffffffff", "a1830102030a",
        "a201020103", "bf01ff", "fc", "a1f501",
        "81" * (MAX_DEPTH + 1) + "00", "9f" * (MAX_DEPTH + 1), "9f" + "00" * 70_000 + "ff",
    ],
)  # fmt: skip
def test_what_is_not_well_formed_is_refused(text: str) -> None:
    with pytest.raises(DecodeError):
        decode(bytes.fromhex(text))


@given(st.binary(max_size=200))
def test_any_bytes_give_a_value_or_a_decode_error(data: bytes) -> None:
    with suppress(DecodeError):
        decode(data)


_LEAVES = st.integers(-(2**64), 2**64 - 1) | st.binary(max_size=40) | st.text(max_size=20)
_DOCUMENTS = st.recursive(
    _LEAVES,
    lambda inner: (
        st.lists(inner, max_size=4).map(tuple)
        | st.dictionaries(st.integers(0, 999) | st.text(max_size=5), inner, max_size=4)
        | st.tuples(st.integers(0, 2**32), inner).map(lambda pair: Tagged(*pair))
    ),
    max_leaves=20,
)


def _for_encoder(value: object) -> object:
    """Tags as the simulator's own encoder knows them."""
    if isinstance(value, Tagged):
        return Tag(value.tag, _for_encoder(value.value))
    if isinstance(value, tuple):
        return [_for_encoder(item) for item in value]
    if isinstance(value, dict):
        return {key: _for_encoder(item) for key, item in value.items()}
    return value


@given(_DOCUMENTS)
def test_what_another_encoder_wrote_is_read(value: Value) -> None:
    assert decode(encode(_for_encoder(value))) == value
