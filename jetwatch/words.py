"""A command template → argv, by rules that no value can bend.

A command is split into words once, by POSIX quoting with every `{{ expression }}` kept whole; then each word is
rendered by itself. A value never becomes two words, never an option (no rendered `-` at the start of a word), never the
end of a word (no NUL). No shell is involved. An expression that is more than the name of a variable is evaluated by
`expressions.py`, imported if there is one.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from msgspec import Struct

from jetwatch.errors import WordError

CHECK_VARIABLES = frozenset({"watch", "hostname", "state_dir", "previous_revision", "attempt", "trigger"})
"""What a check's templates can name."""

RUN_VARIABLES = CHECK_VARIABLES | {"play_uuid", "download_path", "revision", "outputs"}
"""What a download's and a play's templates can name; `outputs` is a table (`outputs.KEY`)."""

HOOK_VARIABLES = RUN_VARIABLES | {
    *("outcome", "exit_code", "failed_step", "duration", "output_path"),
    *("failures", "failing_since"),
}
"""What a hook's templates can name, on_error's too: always defined, empty where there is none."""

_TEXT_VARIABLES = HOOK_VARIABLES - {"outputs"}

LONGEST_WORD_BYTES = 128 * 1024 - 1
"""Linux's MAX_ARG_STRLEN, without the NUL that ends every argument."""

_ENVIRONMENT_PREFIX = "JETWATCH_"
_MARKERS = re.compile(r"\{\{|\{%|\{#")
_SHELL_BARE = re.compile(r"&&|\|\||[|&;<>*]")
_SHELL_EXPANDING = re.compile(r"\$\(|\$\{|\$\w+|`")
_QUOTED = re.compile(r"""\\.|'[^']*'|"(?:\\.|[^"\\])*\"""", re.DOTALL)


class Piece(Struct, frozen=True):
    """A part of a template: literal text, or what stands between `{{` and `}}`."""

    text: str
    is_expression: bool


def split(text: str) -> tuple[str, ...]:
    """The words of a command, as templates.

    Quotes and backslashes group as in a shell; `#` is an ordinary character; an expression is one piece of a word,
    whatever it contains, and quotes around it do not switch it off. Raises WordError.
    """
    if "\0" in text:
        raise WordError("a command cannot contain a NUL character")
    pieces = parse(text)
    masked = "".join(f"\0{number}\0" if piece.is_expression else piece.text for number, piece in enumerate(pieces))
    try:
        words = shlex.split(masked, comments=False, posix=True)
    except ValueError as error:
        raise WordError(_quoting_sentence(str(error))) from error
    if not words:
        raise WordError("the command is empty")
    return tuple(_unmask(word, pieces) for word in words)


def _quoting_sentence(reason: str) -> str:
    if reason == "No closing quotation":
        return "a quote is opened and never closed"
    return f"a backslash at the end has nothing to escape ({reason})"


def _unmask(word: str, pieces: Sequence[Piece]) -> str:
    """The word with its expressions back in their places, sure to be read again as the same pieces."""
    parts = [
        pieces[int(part)] if masked else Piece(part, False)
        for position, part in enumerate(word.split("\0"))
        for masked in [position % 2 == 1]
        if part
    ]
    template = "".join(_written(part) for part in parts)
    if parse(template) != tuple(parts):
        raise WordError(f"`{template}`: write a literal {{ beside a template as {{{{ '{{' }}}}")
    return template


def _written(piece: Piece) -> str:
    return "{{" + piece.text + "}}" if piece.is_expression else piece.text


def parse(template: str) -> tuple[Piece, ...]:
    """The pieces of a template, in order, none of them empty. Raises WordError on `{%`, `{#` and an open `{{`."""
    pieces: list[Piece] = []
    position = 0
    while marker := _MARKERS.search(template, position):
        if marker[0] != "{{":
            raise WordError(f"only {{{{ }}}} is a template; write a literal {marker[0]} as {{{{ '{marker[0]}' }}}}")
        end = _expression_end(template, marker.end())
        pieces.append(Piece(template[position : marker.start()], False))
        pieces.append(Piece(template[marker.end() : end], True))
        position = end + 2
    pieces.append(Piece(template[position:], False))
    return tuple(piece for piece in pieces if piece.text or piece.is_expression)


def _expression_end(template: str, start: int) -> int:
    """Where the `}}` of the expression that begins at `start` stands: outside its texts and its braces."""
    depth = 0
    quote = ""
    position = start
    while position < len(template):
        character = template[position]
        if quote:
            if character == "\\":
                position += 1
            elif character == quote:
                quote = ""
        elif character in "'\"":
            quote = character
        elif depth <= 0 and template.startswith("}}", position):
            return position
        else:
            depth += (character in "([{") - (character in ")]}")
        position += 1
    raise WordError(f"a template is opened and never closed: `{template[start - 2 :][:60]}`")


def names(words: Iterable[str]) -> frozenset[str]:
    """The variables that the templates use (`outputs` for `outputs.KEY`). Raises WordError on a syntax error."""
    found: set[str] = set()
    for piece in _expressions(words):
        if (name := _variable(piece)) is not None:
            found.add(name)
            continue
        from jetwatch import expressions

        found |= expressions.names(piece.text)
    return frozenset(found)


def _variable(expression: Piece) -> str | None:
    """The variable that an expression is, where it is nothing more: most are, and for them no jinja2 is loaded."""
    name = expression.text.strip()
    return name if name in _TEXT_VARIABLES else None


def _expressions(words: Iterable[str]) -> list[Piece]:
    return [piece for word in words for piece in parse(word) if piece.is_expression]


def render(words: Iterable[str], variables: Mapping[str, Any]) -> tuple[str, ...]:
    """The templates as argv: as many words as there were, each rendered by itself.

    `variables` holds texts, numbers or None (empty), and `outputs` a mapping. Raises WordError for an undefined name, a
    value with NUL, a word that would begin with a `-` its template does not begin with, and one Linux would not take.
    """
    return tuple(_render_word(word, variables) for word in words)


def _render_word(template: str, variables: Mapping[str, Any]) -> str:
    word = ""
    for piece in parse(template):
        word += _render_piece(piece, variables)
        if len(word) > LONGEST_WORD_BYTES:  # looked at after each piece, so that many long ones never add up
            break
    _refuse_forbidden(word, template)
    return word


def _render_piece(piece: Piece, variables: Mapping[str, Any]) -> str:
    if not piece.is_expression:
        return piece.text
    name = _variable(piece)
    if name is not None and name in variables:
        return "" if variables[name] is None else str(variables[name])
    from jetwatch import expressions

    return expressions.evaluate(piece.text, variables)


def _refuse_forbidden(word: str, template: str) -> None:
    if "\0" in word:
        raise WordError(f"`{template}`: the value has a NUL character, which no argument can hold")
    if word.startswith("-") and not template.startswith("-"):
        raise WordError(f"`{template}`: the value would make this word an option (`{word[:40]}`)")
    try:
        length = len(word.encode("utf-8", "surrogateescape"))
    except UnicodeEncodeError as error:
        raise WordError(f"`{template}`: the value cannot be written as UTF-8") from error
    if length > LONGEST_WORD_BYTES:
        raise WordError(f"`{template}`: the word is longer than {LONGEST_WORD_BYTES} bytes, which Linux does not take")


def environment_name(variable: str) -> str:
    """`play_uuid` → `JETWATCH_PLAY_UUID`."""
    return _ENVIRONMENT_PREFIX + variable.upper()


def as_environment(variables: Mapping[str, Any]) -> dict[str, str]:
    """The same values as environment; `outputs` becomes one `JETWATCH_OUTPUTS_<KEY>` per key. WordError on NUL."""
    environment: dict[str, str] = {}
    for name, value in variables.items():
        if isinstance(value, Mapping):
            environment |= as_environment({f"{name}_{key}": entry for key, entry in value.items()})
        else:
            environment[environment_name(name)] = "" if value is None else str(value)
    for name, text in environment.items():
        if "\0" in text:
            raise WordError(f"{name}: the value has a NUL character, which no environment can hold")
    return environment


def shell_sign(text: str) -> str | None:
    """What makes a command look as if it were meant for a shell (`&&`, `|`, `$HOME`, …), None when nothing does.

    Quotes and expressions are looked through as a shell would: `*` in quotes is none, `$HOME` in double quotes is one.
    """
    literal = "".join(" " if piece.is_expression else piece.text for piece in parse(text))
    bare = _QUOTED.sub(" ", literal)
    expanding = _QUOTED.sub(lambda found: found[0] if found[0].startswith('"') else " ", literal)
    sign = _SHELL_BARE.search(bare) or _SHELL_EXPANDING.search(expanding)
    return sign[0] if sign else None
