"""Targets, queries, runtime data, routes and events of the REST shim."""

from contextlib import suppress

from api_server_rest.access import is_loopback
from api_server_rest.config import Feature
from api_server_rest.query import Event, Target, decode_runtime_data, parse_query
from api_server_rest.routing import Route, find_route
from guest.errors import DecodeError

SEEDS = (
    b"/cdh/resource/default/key/1?x=1",
    b"http://evil:1/aa/evidence?runtime_data=-_8&encoding=base64#x",
    b"/aa/token?token_type=a%00%ff+b&token_type=c",
    b'{"domain":"d","operation":"o","content":"c"}',
    b"::ffff:127.0.0.1",
)


def one_input(data: bytes) -> None:
    """Every text is read or refused; a route for a resource is a piece of its path."""
    with suppress(DecodeError):
        Event.decode(data)
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        return
    is_loopback(text)
    with suppress(DecodeError):
        target = Target.parse(text)
        for feature in Feature:
            route = find_route("GET", target.path, feature)
            if isinstance(route, Route):
                assert target.path.endswith(route.resource)
        fields = parse_query(target.query)
        decode_runtime_data(fields.get("runtime_data", ""), fields.get("encoding"))
