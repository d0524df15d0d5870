"""What the store reads back from disk and from the kernel."""

from guest.errors import DecodeError
from image_pull.store.meta import Header
from image_pull.store.mountinfo import mount_points, unescape

SEEDS = (
    b'{"format":1,"boot_id":"11111111-2222-3333-4444-555555555555"}',
    b"69 30 0:40 / /run/a\\040b/rootfs rw,relatime shared:1 - overlay overlay rw,lowerdir=/x\n",
)


def one_input(data: bytes) -> None:
    """A header or a DecodeError; mount points always."""
    try:
        Header.decode(data)
    except DecodeError:
        pass
    mount_points(data)
    unescape(data)
