"""Large layers are begun before small ones."""

import pytest

from guest.crypto.digest import Digest, HashAlgorithm
from image_pull.manifest import Descriptor, Manifest
from image_pull.plan import largest_first, plan_layers

TAR = "application/vnd.oci.image.layer.v1.tar+gzip"


def manifest(sizes: list[int]) -> tuple[Manifest, tuple[Digest, ...]]:
    digests = [HashAlgorithm.SHA256.of(bytes((number,))) for number in range(len(sizes))]
    layers = tuple(
        Descriptor(media_type=TAR, digest=digest, size=size, annotations={})
        for digest, size in zip(digests, sizes, strict=True)
    )
    return Manifest(config=layers[0], layers=layers), tuple(digests)


@pytest.mark.parametrize(
    ("sizes", "order"),
    [
        ([1], [0]),
        ([5, 5, 5], [0, 1, 2]),
        ([5, 6, 14, 3, 14, 22], [5, 2, 4, 1, 0, 3]),
        ([0, 2**62, 1], [1, 2, 0]),
    ],
)
def test_the_largest_layers_are_begun_first_and_equal_ones_bottom_first(
    sizes: list[int], order: list[int]
) -> None:
    planned = plan_layers(*manifest(sizes))
    assert [layer.descriptor.size for layer in planned] == sizes
    assert largest_first(planned) == order
