"""Who may ask: processes of this pod, that is, peers on the loopback interface. Sans-I/O.

Source: docs/spec/api-server-rest.md 5.
"""

import ipaddress


def is_loopback(host: str) -> bool:
    """Whether a peer's numeric address is one of loopback.

    127.0.0.0/8 and `::1`, and the former as an IPv6 socket sees them (`::ffff:127.0.0.1`).

    Args:
        host: from the transport, never from a header; what is no address is not loopback.
    """
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return False
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return (mapped or address).is_loopback
