"""One `{{ expression }}` → its names, its value. Owns jinja2, which is imported with this module and nowhere else.

The sandbox is narrow: no globals, no blocks, a list of filters and of text methods whose results are hardly longer than
what they got. So an expression can neither reach the program nor use up its time or memory. What an expression cannot
do raises WordError with its own text in front. `words.py` imports this module only for an expression that is more than
the name of a variable.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from functools import lru_cache, wraps
from types import MappingProxyType
from typing import Any

from jinja2 import StrictUndefined, nodes
from jinja2.environment import TemplateExpression
from jinja2.runtime import Context, Undefined
from jinja2.sandbox import SandboxedEnvironment

from jetwatch.errors import WordError

LONGEST_EXPRESSION = 1_000
"""Characters between `{{` and `}}`: room for any sensible one."""

DEEPEST_EXPRESSION = 40
"""Levels of a syntax tree: Python takes seconds to refuse the code of one that is some hundred levels deep."""

LONGEST_TEXT = 131_072
"""Characters that a filter takes: Linux takes no longer argument (MAX_ARG_STRLEN), so longer text has no use."""

LONGEST_FAULT = 300
"""Characters of what jinja2 says is wrong: it may repeat a value."""

LARGEST_NUMBER = 2**63
"""Bound of a product: beyond it, text of the number would be the only use, and a costly one."""

# fmt: off
_KEPT_FILTERS = (
    "abs", "capitalize", "count", "d", "default", "first", "float", "int", "last", "length", "lower", "string", "title",
    "trim", "truncate", "upper", "urlencode",
)
_TEXT_METHODS = frozenset({
    "capitalize", "count", "endswith", "find", "isalnum", "isalpha", "isdigit", "lower", "lstrip", "partition",
    "removeprefix", "removesuffix", "rfind", "rpartition", "rsplit", "rstrip", "split", "splitlines", "startswith",
    "strip", "title", "upper",
})
# fmt: on

# fmt: off
_KEPT_TESTS = (
    "!=", "<", "<=", "==", ">", ">=", "boolean", "defined", "eq", "equalto", "false", "float", "ge", "greaterthan",
    "gt", "in", "integer", "iterable", "le", "lessthan", "lower", "lt", "mapping", "ne", "none", "number", "sequence",
    "string", "true", "undefined", "upper",
)
_TESTS_OF_NUMBERS = ("divisibleby", "even", "odd")
"""They calculate with `%`, which with a text on its left makes text of any length."""
# fmt: on


class _Sandbox(SandboxedEnvironment):
    """Expressions over text, numbers and one table (`outputs`), nothing else."""

    intercepted_binops = frozenset({"*", "**", "%"})

    def __init__(self) -> None:
        # Not optimized: what is constant is calculated as everything else is, within the same bounds.
        super().__init__(undefined=StrictUndefined, autoescape=False, optimized=False)
        self.globals.clear()  # no range, no namespace: a name is a variable or an error
        self.filters = {name: _bounded(self.filters[name]) for name in _KEPT_FILTERS}
        self.filters |= {"replace": _bounded(_replace), "tojson": _bounded(_to_json)}
        tests: Mapping[str, Any] = self.tests
        of_numbers = {name: _of_numbers(tests[name]) for name in _TESTS_OF_NUMBERS}
        self.tests = {name: tests[name] for name in _KEPT_TESTS} | of_numbers

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """Arithmetic on numbers alone: `'a' * 10**9` and `'%999999999d' % 1` are text of any length."""
        if not (_is_number(left) and _is_number(right)):
            raise ValueError(f"`{operator}` takes two numbers")
        if operator == "**" and not (abs(left) <= 10**6 and abs(right) <= 64):
            raise ValueError("`**` goes no further than 1000000 ** 64")
        result = super().call_binop(context, operator, left, right)
        if operator == "*" and abs(result) > LARGEST_NUMBER:
            raise ValueError("the product is too large")
        return result

    def getattr(self, obj: Any, attribute: str) -> Any:
        """`outputs.KEY`, or a method of a text that is on the list."""
        if isinstance(obj, Mapping):
            return obj[attribute] if attribute in obj else self._no_output(obj, attribute)
        if isinstance(obj, str) and attribute in _TEXT_METHODS:
            return getattr(obj, attribute)
        if isinstance(obj, Undefined):
            return getattr(obj, attribute)  # StrictUndefined raises the sentence that names it
        return self.undefined(f"there is no `.{attribute}` here", name=attribute)

    def getitem(self, obj: Any, argument: Any) -> Any:
        """`outputs['key']`, a character, a slice, a member of a list."""
        if isinstance(obj, Mapping):
            return obj[argument] if argument in obj else self._no_output(obj, argument)
        try:
            return obj[argument]
        except (TypeError, LookupError):
            return self.undefined(f"there is no [{argument!r}] here", name=str(argument))

    def _no_output(self, table: Mapping[str, Any], key: object) -> Undefined:
        given = ", ".join(f"`{name}`" for name in sorted(map(str, table))[:10]) or "none"
        return self.undefined(f"`outputs.{key}` was not given by the check (given: {given})", name=str(key))


def _is_number(value: object) -> bool:
    return isinstance(value, int | float)


def _bounded(filter_: Callable[..., Any]) -> Callable[..., Any]:
    """The filter, refusing over-long input, so that a chain of filters cannot grow text step by step."""

    @wraps(filter_)  # keeps jinja2's own mark that asks for the environment as first argument
    def bounded(*args: Any, **kwargs: Any) -> Any:
        if any(isinstance(value, str) and len(value) > LONGEST_TEXT for value in (*args, *kwargs.values())):
            raise ValueError("the text grows too long")
        return filter_(*args, **kwargs)

    return bounded


def _of_numbers(test: Callable[..., Any]) -> Callable[..., Any]:
    """The test, refusing anything but numbers."""

    def bounded(*values: Any) -> Any:
        if not all(_is_number(value) for value in values):
            raise ValueError("the test takes numbers")
        return test(*values)

    return bounded


def _replace(text: object, old: str, new: str) -> str:
    """Every `old` as `new`, its length known before it is built."""
    source = str(text)
    if len(source) + source.count(old) * len(new) > LONGEST_TEXT:
        raise ValueError("the text grows too long")
    return source.replace(old, new)


def _to_json(value: object) -> str:
    """The value as JSON text (jinja2's own filter escapes for HTML, which an argument is not)."""
    return json.dumps(dict(value) if isinstance(value, Mapping) else value, ensure_ascii=False)


@lru_cache(maxsize=1)
def _sandbox() -> _Sandbox:
    return _Sandbox()


@lru_cache(maxsize=1024)
def _compiled(source: str) -> TemplateExpression:
    if len(source) > LONGEST_EXPRESSION:
        raise WordError(f"an expression may have {LONGEST_EXPRESSION} characters, this one has {len(source)}")
    if not source.strip():
        raise WordError("`{{ }}` is empty: name a variable in it")
    if source.startswith("-") or source.endswith("-"):
        raise WordError(f"write `{{{{ {source.strip('- ')} }}}}`: `{{{{-` and `-}}}}` have no meaning here")
    try:
        _refuse_what_python_cannot_say(_parsed(source))
        return _sandbox().compile_expression(source, undefined_to_none=False)
    except Exception as error:
        raise _refusal(source, error) from error


def _parsed(source: str) -> nodes.Template:
    return _sandbox().parse("{{ " + source + " }}")


def _refuse_what_python_cannot_say(node: nodes.Node, depth: int = 0) -> None:
    """jinja2 writes an expression down as Python, which has no word for `1e999` and refuses too many levels."""
    if depth > DEEPEST_EXPRESSION:
        raise ValueError("the expression is nested too deep")
    if isinstance(node, nodes.Const) and isinstance(node.value, float) and not math.isfinite(node.value):
        raise ValueError("the number is too large")
    for child in node.iter_child_nodes():
        _refuse_what_python_cannot_say(child, depth + 1)


def _refusal(source: str, error: BaseException) -> WordError:
    reason = str(getattr(error, "message", None) or error) or type(error).__name__
    shown = source.strip()
    return WordError(f"`{{{{ {shown if len(shown) <= 80 else shown[:77] + '...'} }}}}`: {reason[:LONGEST_FAULT]}")


@lru_cache(maxsize=1024)
def names(source: str) -> frozenset[str]:
    """The variables that the expression `source` uses. Raises WordError when it is no expression.

    One that uses none has its value already: what it cannot do, it never can.
    """
    _compiled(source)
    found = frozenset(name.name for name in _parsed(source).find_all(nodes.Name))
    if not found:
        evaluate(source, {})
    return found


def evaluate(source: str, variables: Mapping[str, Any]) -> str:
    """The value of the expression `source` as text; None is empty.

    Raises WordError: whatever its code raises is the fault of the expression, and of nobody else.
    """
    readable = {
        name: MappingProxyType(dict(value)) if isinstance(value, Mapping) else value
        for name, value in variables.items()
    }
    expression = _compiled(source)
    try:
        return _as_text(expression(readable))
    except Exception as error:
        raise _refusal(source, error) from error


def _as_text(value: Any) -> str:
    if value is not None and not isinstance(value, str | int | float | Undefined):
        raise TypeError("the value is no text and no number; name one part of it")
    return "" if value is None else str(value)  # of an undefined one it raises the sentence that names it
