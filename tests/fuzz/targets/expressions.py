"""Command templates: split into words, named, rendered with values that strangers chose."""

from __future__ import annotations

from fuzz.target import Target, choice_and_rest, is_a_sentence
from jetwatch import words
from jetwatch.errors import WordError

BETWEEN = "\n%%\n"
_FACTS = {"watch": "web", "hostname": "host", "state_dir": "/var/lib/jetwatch", "attempt": 1, "exit_code": None}


def one_input(data: bytes) -> None:
    """The template, a line `%%`, the value of every variable. Argv of the same length, or a WordError."""
    road, rest = choice_and_rest(data, 3)
    template, _, value = rest.decode("utf-8", "surrogateescape").partition(BETWEEN)
    if road == 1:
        template = "{{ " + template + " }}"
    variables = {**dict.fromkeys(words.HOOK_VARIABLES, value), **_FACTS, "outputs": {"a": value, "b": "-1"}}
    try:
        parts = (template,) if road == 2 else words.split(template)
        words.names(parts)
        words.shell_sign(template)
        rendered = words.render(parts, variables)
    except WordError as error:
        _says_why(error)
        return
    assert len(rendered) == len(parts)
    for word, part in zip(rendered, parts, strict=True):
        assert "\0" not in word
        assert not word.startswith("-") or part.startswith("-"), (part, word)
        assert len(word.encode("utf-8", "surrogateescape")) <= words.LONGEST_WORD_BYTES


def _says_why(error: WordError) -> None:
    is_a_sentence(error)


TARGET = Target(
    "expressions",
    "a template and any value become as many words as were written, or a WordError",
    one_input,
    words=(
        *(
            b"{{ ",
            b" }}",
            b"{%",
            b"{#",
            b"revision",
            b"outputs.a",
            b"outputs['a']",
            b"attempt",
            b" | ",
            b"is ",
            b"not ",
        ),
        *(
            b"int",
            b"float",
            b"default(1)",
            b"replace('a','b')",
            b"tojson",
            b"truncate(9)",
            b"urlencode",
            b"title",
            b"length",
        ),
        *(
            b" ** ",
            b" * ",
            b" % ",
            b" // ",
            b"1e999",
            b"divisibleby(3)",
            b"odd",
            b"0x",
            b"[::-1]",
            b".split('a')",
            b"~",
        ),
        *(b"(" * 60, b"[" * 60, b"if 1 else", b"in", b"\n%%\n", b"nan", b"-", b"'", b'"', b"\\", b".upper()", b"()"),
    ),
    small=400,
    cpu_s=5.0,
)
