"""Evaluates the small part of Rego that `rego_syntax` parses, as a resource policy. Sans-I/O.

Source: docs/spec/kbs-protocol.md §12 (input and data), §13.5.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final

from guest_simulator.kbs.policy import Access, ResourcePolicy
from guest_simulator.kbs.rego_syntax import (
    Array,
    Assignment,
    Call,
    Comparison,
    Expression,
    Iteration,
    Literal,
    Parser,
    Reference,
    RegoError,
    Rule,
    Statement,
    Test,
)

STEP_LIMIT: Final = 100_000
"""Statements that one evaluation may run."""


class Undefined(Exception):  # noqa: N818  # a value of Rego, not a defect
    """An expression without a value."""


Scope = Mapping[str, object]


def _count(value: object) -> object:
    if isinstance(value, str | Mapping | Sequence):
        return len(value)
    raise Undefined


def _texts(function: Callable[[str, str], object]) -> Callable[..., object]:
    def call(*values: object) -> object:
        if len(values) == 2 and isinstance(values[0], str) and isinstance(values[1], str):
            return function(values[0], values[1])
        raise Undefined

    return call


BUILTINS: Final[Mapping[str, Callable[..., object]]] = {
    "count": _count,
    "startswith": _texts(str.startswith),
    "endswith": _texts(str.endswith),
    "contains": _texts(lambda text, part: part in text),
    "split": _texts(str.split),
    "concat": lambda glue, items: str(glue).join(items),
}


def compile_policy(text: str) -> ResourcePolicy:
    """A policy from its text; an evaluation error denies.

    Raises:
        RegoError: it does not parse, or uses what is not understood here.
    """
    rules = Parser(text).module()
    names = {rule.name for rule in rules}
    for rule in rules:
        _check_calls(rule)
    if not names:
        raise RegoError("a policy without rules")

    def policy(access: Access) -> bool:
        data = {
            "plugin": access.plugin,
            "resource-path": list(access.path),
            "query": dict(access.query),
        }
        return Evaluation(rules, {"input": access.claims, "data": data}).is_allowed()

    return policy


def _check_calls(node: object) -> None:
    if isinstance(node, Call) and node.name not in BUILTINS:
        raise RegoError(f"unknown function {node.name}")
    if isinstance(node, tuple):
        for item in node:
            _check_calls(item)
    elif hasattr(node, "__dataclass_fields__"):
        for name in node.__dataclass_fields__:
            _check_calls(getattr(node, name))


class Evaluation:
    """One request against one module."""

    def __init__(self, rules: tuple[Rule, ...], documents: Scope) -> None:
        self._rules = rules
        self._documents = documents
        self._steps = 0
        self._active: set[str] = set()

    def is_allowed(self) -> bool:
        """Whether rule `allow` is true; undefined and other values are not."""
        try:
            return self._rule_value("allow") is True
        except (Undefined, RegoError, TypeError):
            return False

    def _rule_value(self, name: str) -> object:
        if name in self._active:
            raise RegoError(f"rule {name} refers to itself")
        self._active.add(name)
        try:
            own = [rule for rule in self._rules if rule.name == name]
            for rule in own:
                if not rule.default:
                    for scope in self._solutions(rule.body, {}):
                        return self._value(rule.value, scope)
            for rule in own:
                if rule.default:
                    return self._value(rule.value, {})
            raise Undefined
        finally:
            self._active.discard(name)

    def _solutions(self, body: tuple[Statement, ...], scope: Scope) -> Iterator[Scope]:
        self._steps += 1
        if self._steps > STEP_LIMIT:
            raise RegoError("the policy runs too long")
        if not body:
            yield scope
            return
        for inner in self._statement(body[0], scope):
            yield from self._solutions(body[1:], inner)

    def _statement(self, statement: Statement, scope: Scope) -> Iterator[Scope]:
        match statement:
            case Test():
                if self._holds(statement.expression, scope) is not statement.negated:
                    yield scope
            case Assignment():
                try:
                    yield {**scope, statement.name: self._value(statement.expression, scope)}
                except Undefined:
                    return
            case Iteration(every=None):
                yield from self._each(statement, scope)
            case Iteration():
                body = statement.every or ()
                scopes = tuple(self._each(statement, scope, strict=True))
                if all(any(True for _ in self._solutions(body, inner)) for inner in scopes):
                    yield scope

    def _each(self, iteration: Iteration, scope: Scope, *, strict: bool = False) -> Iterator[Scope]:
        try:
            source = self._value(iteration.source, scope)
        except Undefined:
            if strict:
                raise
            return
        if isinstance(source, Mapping):
            pairs = list(source.items())
        elif isinstance(source, list):
            pairs = list(enumerate(source))
        else:
            raise Undefined
        for key, value in pairs:
            yield {**scope, iteration.key: key, iteration.value: value}

    def _holds(self, expression: Expression, scope: Scope) -> bool:
        try:
            return self._value(expression, scope) is not False
        except Undefined:
            return False

    def _value(self, expression: Expression, scope: Scope) -> object:
        match expression:
            case Literal():
                return expression.value
            case Array():
                return [self._value(item, scope) for item in expression.items]
            case Call():
                arguments = [self._value(item, scope) for item in expression.arguments]
                return BUILTINS[expression.name](*arguments)
            case Comparison():
                left = self._value(expression.left, scope)
                return _compare(expression.sign, left, self._value(expression.right, scope))
            case Reference():
                return self._reference(expression, scope)

    def _reference(self, reference: Reference, scope: Scope) -> object:
        if reference.name in scope:
            value = scope[reference.name]
        elif reference.name in self._documents:
            value = self._documents[reference.name]
        else:
            value = self._rule_value(reference.name)
        for step in reference.steps:
            value = _child(value, self._value(step, scope))
        return value


def _child(value: object, key: object) -> object:
    if isinstance(value, Mapping) and isinstance(key, str) and key in value:
        return value[key]
    if isinstance(value, list) and type(key) is int and 0 <= key < len(value):
        return value[key]
    raise Undefined


def _same(left: object, right: object) -> bool:
    if isinstance(left, bool) or isinstance(right, bool):
        return left is right
    return left == right


def _compare(sign: str, left: object, right: object) -> bool:
    match sign:
        case "==":
            return _same(left, right)
        case "!=":
            return not _same(left, right)
        case "in":
            if isinstance(right, Mapping):
                return any(_same(left, value) for value in right.values())
            return isinstance(right, list) and any(_same(left, value) for value in right)
    return _is_ordered(sign, left, right)


def _is_ordered(sign: str, left: object, right: object) -> bool:
    if isinstance(left, int | float) and isinstance(right, int | float):
        order = (left > right) - (left < right)
    elif isinstance(left, str) and isinstance(right, str):
        order = -1 if left < right else int(left > right)
    else:
        raise Undefined
    return {"<": order < 0, "<=": order <= 0, ">": order > 0, ">=": order >= 0}[sign]
