"""Options of volumes: text of the host."""

import json
from contextlib import suppress

from cdh.storage.mkfs import parse_options, superblocks, with_integrity
from cdh.storage.options import parse_block_device, parse_mount_point, parse_old_block_device
from cdh.storage.oss_options import parse_oss
from guest.errors import DecodeError

SEEDS = (
    (
        b'{"deviceId":"8:1","sourceType":"empty","targetType":"fileSystem","encryptionType":'
        b'"luks2","mkfsOpts":"-O ^has_journal -m 0","dataIntegrity":"true","mapperName":"x"}'
    ),
    (
        b'{"devicePath":"/dev/vdb","sourceType":"encrypted","encryptionType":"zfs","pool":"p",'
        b'"key":"kbs:///a/b/c"}'
    ),
    (
        b'{"akId":"a","akSecret":"b","bucket":"c","otherOpts":"-o x","path":"/","readonly":"",'
        b'"targetPath":"","url":"http://x","volumeId":"","encrypted":"gocryptfs"}'
    ),
    b"\nSuperblock backups stored on blocks: \n\t32768, 98304\n",
)


def one_input(data: bytes) -> None:
    """Options are read or refused."""
    with suppress(DecodeError):
        superblocks(data)
    text = data.decode("utf-8", "replace")
    for parse in (parse_options, parse_mount_point):
        with suppress(DecodeError):
            parse(text)
    with suppress(DecodeError):
        with_integrity(parse_options(text))
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        return
    if not isinstance(document, dict):
        return
    options = {str(name): str(value) for name, value in document.items()}
    for read in (parse_block_device, parse_old_block_device, parse_oss):
        with suppress(DecodeError):
            read(options)
