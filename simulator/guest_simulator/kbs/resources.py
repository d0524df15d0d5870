"""Plugin requests: credentials, policy, the resource itself, the JWE around it.

Source: docs/spec/kbs-protocol.md §2 (order of checks), §12.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final
from urllib.parse import parse_qsl

from cryptography.hazmat.primitives.asymmetric import ec, mlkem, rsa

from guest_simulator.encoding import b64url_encode
from guest_simulator.faults import Lie
from guest_simulator.kbs.admin import AdminDenied
from guest_simulator.kbs.behaviour import Behaviour
from guest_simulator.kbs.failures import KbsFailure, Kind, plugin_failed
from guest_simulator.kbs.jwe import CURVES, JweError, encrypt_for
from guest_simulator.kbs.jws import PublicKey
from guest_simulator.kbs.policy import Access, ResourcePolicy
from guest_simulator.kbs.session import Sessions
from guest_simulator.kbs.store import ResourceStore, is_resource_name
from guest_simulator.kbs.token import tee_key_of, verify_token
from guest_simulator.reply import Reply
from guest_simulator.service import Incoming

RESOURCE: Final = "resource"
JSON: Final = "application/json"
XML: Final = "text/xml"
PREPARED_LIMIT: Final = 4096
"""Answers kept ready; beyond it all are forgotten."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """An answer that may be given again.

    Attributes:
        policy: the policy that allowed it.
        generation: the state of the store it was made from.
        expires: when its token ends, seconds since the epoch.
    """

    reply: Reply
    policy: ResourcePolicy
    generation: int
    expires: float


class Resources:
    """Everything below `/kbs/v0/<plugin>/`.

    Attributes:
        generation: counts changes of the store.
    """

    def __init__(
        self, behaviour: Behaviour, sessions: Sessions, store: ResourceStore, own_key: PublicKey
    ) -> None:
        self.generation = 0
        self._behaviour = behaviour
        self._sessions = sessions
        self._store = store
        self._own_key = own_key
        self._prepared: dict[tuple[str, str, str, str], Prepared] = {}

    def put(self, key: str, value: bytes) -> None:
        """Store a resource.

        Raises:
            ValueError: the key is not `repository/type/tag`.
        """
        if not is_resource_name(tuple(key.split("/"))):
            raise ValueError(f"a resource is named repository/type/tag: {key}")
        self._store.put(key, value)
        self.generation += 1

    def delete(self, key: str) -> bool:
        """Remove a resource; whether it was there."""
        self.generation += 1
        return self._store.delete(key)

    async def answer(self, request: Incoming, plugin: str, path: tuple[str, ...]) -> Reply:
        """Answer one request.

        Raises:
            KbsFailure: in the order plugin, administrator or token, policy, plugin, JWE.
        """
        behaviour = self._behaviour
        if plugin != RESOURCE and plugin not in behaviour.plugins:
            raise KbsFailure(Kind.PLUGIN_NOT_FOUND, f"Plugin {plugin} not found")
        if self._needs_admin(plugin, request.method):
            self._check_admin(request)
            return await self._administrate(request, plugin, path)
        key = (request.header("Cookie"), request.header("Authorization"), request.path)
        ready = self._find_prepared((*key, request.query)) if not request.lies else None
        if ready is not None:
            return ready
        claims = self._claims(request)
        access = Access(claims=claims, plugin=plugin, path=path, query=query_of(request.query))
        if Lie.DENIAL in request.lies or not behaviour.policy(access):
            raise KbsFailure(Kind.POLICY_DENY, "Access denied by policy")
        plaintext = await self._read(request, access)
        if plaintext is None:
            raise plugin_failed()
        reply = self._encrypt(request, claims, plaintext)
        if behaviour.prepare_answers and not request.lies:
            self._prepare((*key, request.query), reply, claims)
        return reply

    def _needs_admin(self, plugin: str, method: str) -> bool:
        return method in ("POST", "DELETE") or (plugin != RESOURCE and method != "GET")

    def _check_admin(self, request: Incoming) -> None:
        uri = request.path + (f"?{request.query}" if request.query else "")
        try:
            self._behaviour.admin.check(
                request.header("Authorization"), uri, self._behaviour.clock.now()
            )
        except AdminDenied as denied:
            raise KbsFailure(
                Kind.ADMIN_AUTH_INITIALIZATION,
                f"failed to initialize [admin] configuration: {denied}",
            ) from denied

    async def _administrate(self, request: Incoming, plugin: str, path: tuple[str, ...]) -> Reply:
        body = await request.read(self._behaviour.payload_limit)
        if plugin != RESOURCE:
            query = query_of(request.query)
            answer = self._behaviour.plugins[plugin](request.method, path, query, body)
            if answer is None:
                raise plugin_failed()
            return Reply(headers={"Content-Type": XML}, body=answer)
        if not is_resource_name(path):
            raise plugin_failed()
        if request.method == "POST":
            self.put("/".join(path), body)
        elif not self.delete("/".join(path)):
            raise plugin_failed()
        return Reply(headers={"Content-Type": XML})

    def _claims(self, request: Incoming) -> Mapping[str, object]:
        behaviour = self._behaviour
        now = behaviour.clock.now()
        session = self._sessions.find(request.header("Cookie"), now)
        token = session.token if session is not None else None
        if token is None:
            scheme, _, bearer = request.header("Authorization").partition(" ")
            token = bearer.strip() if scheme.lower() == "bearer" else ""
        if not token:
            raise KbsFailure(Kind.TOKEN_NOT_FOUND, "Attestation Token not found")
        return verify_token(
            token,
            (self._own_key, *behaviour.trusted_signers),
            now,
            trust_header=behaviour.trust_header_jwk,
        )

    async def _read(self, request: Incoming, access: Access) -> bytes | None:
        if access.plugin != RESOURCE:
            body = await request.read(self._behaviour.payload_limit)
            plugin = self._behaviour.plugins[access.plugin]
            return plugin(request.method, access.path, access.query, body)
        if request.method != "GET" or not is_resource_name(access.path):
            return None
        return self._store.find("/".join(access.path))

    def _encrypt(self, request: Incoming, claims: Mapping[str, object], plaintext: bytes) -> Reply:
        jwk = tee_key_of(claims)
        if Lie.FOREIGN_KEY in request.lies:
            jwk = _foreign_key(jwk)
        try:
            body = encrypt_for(jwk, plaintext, self._behaviour.random)
        except JweError as error:
            raise KbsFailure(Kind.JWE_ERROR, "JWE failed") from error
        return Reply(headers={"Content-Type": JSON}, body=body)

    def _find_prepared(self, key: tuple[str, str, str, str]) -> Reply | None:
        found = self._prepared.get(key)
        if found is None:
            return None
        fresh = (
            self._behaviour.prepare_answers
            and found.policy is self._behaviour.policy
            and found.generation == self.generation
            and self._behaviour.clock.now() < found.expires
        )
        return found.reply if fresh else None

    def _prepare(
        self, key: tuple[str, str, str, str], reply: Reply, claims: Mapping[str, object]
    ) -> None:
        expires = claims.get("exp")
        if not isinstance(expires, int | float):
            return
        if len(self._prepared) >= PREPARED_LIMIT:
            self._prepared.clear()
        self._prepared[key] = Prepared(
            reply=reply,
            policy=self._behaviour.policy,
            generation=self.generation,
            expires=float(expires),
        )


def query_of(text: str) -> dict[str, str]:
    """The members of a query string; of duplicates the last wins."""
    return dict(parse_qsl(text, keep_blank_values=True))


def _foreign_key(jwk: Mapping[str, str]) -> dict[str, str]:
    """A key of the same kind whose private half nobody keeps."""
    if jwk["kty"] == "RSA":
        numbers = rsa.generate_private_key(65537, 2048).public_key().public_numbers()
        return {**jwk, "n": b64url_encode(numbers.n.to_bytes(256, "big")), "e": "AQAB"}
    if jwk["kty"] == "AKP":
        public = mlkem.MLKEM768PrivateKey.generate().public_key().public_bytes_raw()
        return {**jwk, "pub": b64url_encode(public)}
    curve, size = CURVES[jwk["crv"]]
    point = ec.generate_private_key(curve).public_key().public_numbers()
    x, y = (b64url_encode(n.to_bytes(size, "big")) for n in (point.x, point.y))
    return {**jwk, "x": x, "y": y}
