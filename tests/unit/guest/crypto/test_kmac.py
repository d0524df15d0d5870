"""guest/crypto/kmac.py: the published code, and the same as code that shares nothing with it."""

from hypothesis import given
from hypothesis import strategies as st

from guest.crypto.kmac import kmac256
from guest.secret import Secret
from guest_simulator.kbs import keccak


def test_the_wrapping_key_of_the_specification_comes_out() -> None:
    data = bytes.fromhex("000000114d4c2d4b454d2d3736382b413139324b57000000c0")
    code = kmac256(Secret(bytes(32)), data, 24)
    assert code.reveal().hex() == "5a532aa1c71c5bfe8ef4f3c32d4e6146992d6bd53fd0ccca"


@given(
    key=st.binary(min_size=32, max_size=200),
    data=st.binary(max_size=300),
    length=st.integers(8, 64),
)
def test_any_code_is_that_of_the_simulators_own_keccak(
    key: bytes, data: bytes, length: int
) -> None:
    assert kmac256(Secret(key), data, length).reveal() == keccak.kmac256(key, data, length)
