"""A small part of Rego, parsed: enough for resource policies as people write them. Sans-I/O.

Understood: `package policy`, imports of `rego.v1` and `future.keywords`, `default`, rules with
and without `if`, `:=`, comparisons, `in`, `not`, `some ... in`, `every ... in`, references,
scalars, arrays, calls. Everything else is an error, never skipped.

Source: docs/spec/kbs-protocol.md §13.5; the Rego policy language.
"""

import json
import re
from dataclasses import dataclass
from typing import Final

TOKEN: Final = re.compile(
    r"""(?P<space>[ \t\r]+|\#[^\n]*)
      |(?P<newline>\n)
      |(?P<string>"(?:[^"\\\n]|\\.)*"|`[^`]*`)
      |(?P<number>-?[0-9]+(?:\.[0-9]+)?)
      |(?P<name>[A-Za-z_][A-Za-z0-9_]*)
      |(?P<sign>:=|==|!=|<=|>=|[<>={}()\[\].,;])""",
    re.VERBOSE,
)
COMPARISONS: Final = ("==", "!=", "<", "<=", ">", ">=", "in")
DEPTH_LIMIT: Final = 50
"""Nesting that is parsed."""


class RegoError(ValueError):
    """A policy that does not parse, or says more than is understood here."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Literal:
    """A scalar."""

    value: object


@dataclass(frozen=True, slots=True, kw_only=True)
class Array:
    """An array of expressions."""

    items: tuple["Expression", ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """A name and the steps after it."""

    name: str
    steps: tuple["Expression", ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """A builtin function and its arguments."""

    name: str
    arguments: tuple["Expression", ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Two expressions and a sign of `COMPARISONS`."""

    sign: str
    left: "Expression"
    right: "Expression"


Expression = Literal | Array | Reference | Call | Comparison


@dataclass(frozen=True, slots=True, kw_only=True)
class Test:
    """A statement that must hold, or with `negated` must not."""

    expression: Expression
    negated: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Assignment:
    """`name := expression`."""

    name: str
    expression: Expression


@dataclass(frozen=True, slots=True, kw_only=True)
class Iteration:
    """`some key, value in source`, or `every ... { body }`."""

    key: str
    value: str
    source: Expression
    every: tuple["Statement", ...] | None = None


Statement = Test | Assignment | Iteration


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """One rule: its value when all of its body holds."""

    name: str
    value: Expression
    body: tuple[Statement, ...] = ()
    default: bool = False


class Parser:
    """Recursive descent over the tokens of one module."""

    def __init__(self, text: str) -> None:
        self._tokens: list[tuple[str, str]] = []
        position = 0
        while position < len(text):
            match = TOKEN.match(text, position)
            if match is None:
                raise RegoError(f"unexpected character {text[position]!r}")
            if match.lastgroup != "space":
                self._tokens.append((str(match.lastgroup), match[0]))
            position = match.end()
        self._tokens.append(("end", ""))
        self._index = 0
        self._depth = 0

    def module(self) -> tuple[Rule, ...]:
        """The rules of the module.

        Raises:
            RegoError: it does not parse.
        """
        self._lines()
        self._expect("package")
        if self._name() != "policy":
            raise RegoError("the package must be policy")
        rules: list[Rule] = []
        while True:
            self._lines()
            if self._peek()[0] == "end":
                return tuple(rules)
            if self._take("import"):
                self._import()
            else:
                rules.append(self._rule())

    def _peek(self, ahead: int = 0) -> tuple[str, str]:
        return self._tokens[min(self._index + ahead, len(self._tokens) - 1)]

    def _next(self) -> tuple[str, str]:
        token = self._peek()
        self._index += 1
        return token

    def _take(self, text: str) -> bool:
        kind, found = self._peek()
        if found == text and kind in ("name", "sign"):
            self._index += 1
            return True
        return False

    def _expect(self, text: str) -> None:
        if not self._take(text):
            raise RegoError(f"expected {text!r}, found {self._peek()[1]!r}")

    def _name(self) -> str:
        kind, text = self._next()
        if kind != "name":
            raise RegoError(f"expected a name, found {text!r}")
        return text

    def _lines(self) -> None:
        while self._peek()[0] == "newline" or self._peek()[1] == ";":
            self._index += 1

    def _import(self) -> None:
        path = [self._name()]
        while self._take("."):
            path.append(self._name())
        if path[:2] not in (["rego", "v1"], ["future", "keywords"]):
            raise RegoError(f"unknown import {'.'.join(path)}")

    def _rule(self) -> Rule:
        default = self._take("default")
        name = self._name()
        value: Expression = Literal(value=True)
        if self._take(":=") or self._take("="):
            value = self._expression()
        elif default:
            raise RegoError("a default needs a value")
        body: tuple[Statement, ...] = ()
        conditional = not default and self._take("if")
        if not default and self._peek()[1] == "{":
            body = self._block()
        elif conditional:
            body = (self._statement(),)
        elif not default and isinstance(value, Literal) and value.value is True:
            raise RegoError(f"rule {name} has neither value nor body")
        return Rule(name=name, value=value, body=body, default=default)

    def _block(self) -> tuple[Statement, ...]:
        self._expect("{")
        statements: list[Statement] = []
        self._lines()
        while not self._take("}"):
            statements.append(self._statement())
            if self._peek()[1] != "}" and self._peek()[0] != "newline" and self._peek()[1] != ";":
                raise RegoError(f"unexpected {self._peek()[1]!r}")
            self._lines()
        if not statements:
            raise RegoError("an empty body")
        return tuple(statements)

    def _statement(self) -> Statement:
        self._depth += 1
        if self._depth > DEPTH_LIMIT:
            raise RegoError("nested too deep")
        try:
            if self._take("not"):
                return Test(expression=self._expression(), negated=True)
            if self._take("some"):
                return self._iteration(every=False)
            if self._take("every"):
                return self._iteration(every=True)
            if self._peek()[0] == "name" and self._peek(1)[1] == ":=":
                name = self._name()
                self._expect(":=")
                return Assignment(name=name, expression=self._expression())
            return Test(expression=self._expression())
        finally:
            self._depth -= 1

    def _iteration(self, *, every: bool) -> Iteration:
        names = [self._name()]
        if self._take(","):
            names.append(self._name())
        self._expect("in")
        source = self._operand()
        key, value = ("_", names[0]) if len(names) == 1 else (names[0], names[1])
        body = self._block() if every else None
        return Iteration(key=key, value=value, source=source, every=body)

    def _expression(self) -> Expression:
        left = self._operand()
        sign = self._peek()[1]
        if sign in COMPARISONS and self._peek()[0] in ("sign", "name"):
            self._index += 1
            return Comparison(sign=sign, left=left, right=self._operand())
        return left

    def _operand(self) -> Expression:
        self._depth += 1
        if self._depth > DEPTH_LIMIT:
            raise RegoError("nested too deep")
        try:
            return self._atom()
        finally:
            self._depth -= 1

    def _atom(self) -> Expression:
        kind, text = self._next()
        if kind == "string":
            return Literal(value=_unquote(text))
        if kind == "number":
            return Literal(value=json.loads(text))
        if text == "[":
            return Array(items=self._list("]"))
        if text == "(":
            inner = self._expression()
            self._expect(")")
            return inner
        if kind != "name":
            raise RegoError(f"unexpected {text!r}")
        if text in ("true", "false", "null"):
            return Literal(value={"true": True, "false": False, "null": None}[text])
        if self._take("("):
            return Call(name=text, arguments=self._list(")"))
        return Reference(name=text, steps=self._steps())

    def _list(self, end: str) -> tuple[Expression, ...]:
        items: list[Expression] = []
        self._lines()
        while not self._take(end):
            items.append(self._expression())
            self._lines()
            if not self._take(","):
                self._expect(end)
                break
            self._lines()
        return tuple(items)

    def _steps(self) -> tuple[Expression, ...]:
        steps: list[Expression] = []
        while True:
            if self._take("."):
                steps.append(Literal(value=self._name()))
            elif self._take("["):
                steps.append(self._operand())
                self._expect("]")
            else:
                return tuple(steps)


def _unquote(text: str) -> str:
    if text.startswith("`"):
        return text[1:-1]
    try:
        return str(json.loads(text))
    except ValueError as error:
        raise RegoError(f"bad string {text}") from error
