"""A command template becomes argv by rules that no value can bend."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jetwatch import words
from jetwatch.errors import WordError

VALUES = {
    "path": "/tmp/a b",
    "dash": "-rf",
    "empty": "",
    "none": None,
    "nul": "a\0b",
    "number": 7,
    "wide": "\ud800",
    "outputs": {"sha": "abc", "items": "three", "get": "got"},
}

SPLITS = [
    ("/var/jetp/check.sh", ("/var/jetp/check.sh",)),
    ("run {{ download_path }}/pb.yml", ("run", "{{ download_path }}/pb.yml")),
    ("run {{download_path}}{{ revision }}", ("run", "{{download_path}}{{ revision }}")),
    ("run '{{ a }} b'", ("run", "{{ a }} b")),
    ('run "{{ a }}"', ("run", "{{ a }}")),
    ("run {{ 'it}}s' ~ \"a b\" }} x", ("run", "{{ 'it}}s' ~ \"a b\" }}", "x")),
    ("run {{ {'a': {'b': 1}}['a']['b'] }}", ("run", "{{ {'a': {'b': 1}}['a']['b'] }}")),
    (r"run {{ 'a\'b}}' }}", ("run", r"{{ 'a\'b}}' }}")),
    ("run a\\ b '' \"c d\"", ("run", "a b", "", "c d")),
    ("run # no comment", ("run", "#", "no", "comment")),
    ("run\na\tb", ("run", "a", "b")),
    ("run {{ a }}}", ("run", "{{ a }}}")),
]

UNSPLITTABLE = [
    ("", "empty"),
    ("  \n", "empty"),
    ("run 'x", "never closed"),
    ('run "x', "never closed"),
    ("run {{ x", "never closed"),
    ("run {{ 'x }}", "never closed"),
    ("run x\\", "backslash"),
    ("run {% for a in b %}", "{%"),
    ("run {# note #}", "{#"),
    ("run '{'{{ a }}", "{"),
    ("run '{''{' a", "{"),
    ("run a\0b", "NUL"),
]


@pytest.mark.parametrize(("text", "expected"), SPLITS)
def test_a_text_splits_into_words_with_expressions_kept_whole(text: str, expected: tuple[str, ...]) -> None:
    """POSIX quoting makes the words; an expression is one piece of a word, whatever stands in it."""
    assert words.split(text) == expected


@pytest.mark.parametrize(("text", "reason"), UNSPLITTABLE)
def test_a_text_that_is_no_command_is_refused_with_a_sentence(text: str, reason: str) -> None:
    """What cannot be split says why."""
    with pytest.raises(WordError, match=reason):
        words.split(text)


RENDERED = [
    ("{{ path }}/pb.yml", "/tmp/a b/pb.yml"),
    ("--x={{ dash }}", "--x=-rf"),
    ("-{{ path }}", "-/tmp/a b"),
    ("{{ empty }}", ""),
    ("{{ none }}", ""),
    ("{{ number }}", "7"),
    ("{{ number * 2 + 1 }}", "15"),
    ("{{ outputs.sha }}{{ outputs['sha'] }}", "abcabc"),
    ("{{ outputs.items }} {{ outputs.get }}", "three got"),
    ("{{ outputs.absent | default('-') }}x", WordError),
    ("x{{ outputs.absent | default('-') }}", "x-"),
    ("{{ path.split(' ')[1] | upper }}", "B"),
    ("{{ path | replace('a b', 'c') }}", "/tmp/c"),
    ("{{ path[:4] }}", "/tmp"),
    ("{{ 'yes' if number > 3 else 'no' }}", "yes"),
    ("{{ path | tojson }}", '"/tmp/a b"'),
    ("{{ '{{' }}", "{{"),
    ("plain", "plain"),
]


@pytest.mark.parametrize(("template", "expected"), [(t, e) for t, e in RENDERED if isinstance(e, str)])
def test_a_word_is_rendered_by_itself(template: str, expected: str) -> None:
    """Each expression gives its value as text; None gives nothing."""
    assert words.render(("run", template), VALUES) == ("run", expected)


REFUSED = [
    ("{{ dash }}", "option"),
    ("{{ empty }}{{ dash }}", "option"),
    ("{{ empty }}-x", "option"),
    ("{{ outputs.absent | default('-') }}x", "option"),
    ("{{ nul }}", "NUL"),
    ("{{ '\\0' }}", "NUL"),
    ("{{ wide }}", "UTF-8"),
    ("{{ nothing }}", "nothing"),
    ("{{ path.nothing }}", "nothing"),
    ("{{ nothing.at.all }}", "nothing"),
    ("{{ outputs.absent }}", "outputs.absent"),
    ("{{ outputs['absent'] }}", "outputs.absent"),
    ("{{ outputs }}", "one part"),
    ("{{ path.split }}", "one part"),
    ("{{ path() }}", "callable"),
    ("{{ 1 // 0 }}", "zero"),
    ("{{ self }}", "one part"),
]


@pytest.mark.parametrize(("template", "reason"), REFUSED)
def test_a_value_that_would_bend_the_command_is_refused(template: str, reason: str) -> None:
    """Options, NUL, undefined names and things that are no text never reach argv."""
    with pytest.raises(WordError, match=reason):
        words.render(("run", template), VALUES)


ESCAPES = [
    "{{ ''.__class__.__mro__ }}",
    "{{ ''['__class__'] }}",
    "{{ path | attr('__class__') }}",
    "{{ ().__class__ }}",
    "{{ self.__init__ }}",
    "{{ '{0.__class__}'.format(path) }}",
    "{{ cycler }}",
    "{{ lipsum() }}",
]


@pytest.mark.parametrize("template", ESCAPES)
def test_an_expression_cannot_reach_the_program(template: str) -> None:
    """No private attribute, no global, no formatting trick gets out of the sandbox."""
    with pytest.raises(WordError):
        words.render((template,), VALUES)


RUNAWAYS = [
    "{{ 'a' * 10**9 }}",
    "{{ [1] * 10**9 }}",
    "{{ 9**9**9 }}",
    "{{ 2 ** 64 ** 64 }}",
    "{{ range(10**9) | list }}",
    "{{ 'a'.center(10**9) }}",
    "{{ 'a' | center(10**9) }}",
    "{{ '%999999999d' % 1 }}",
    "{{ '%999999999d' | format(1) }}",
    "{{ '{:999999999}'.format(1) }}",
    "{{ 'a'.replace('', 'b' * 9) }}",
    "{{ '%999999999d' is odd }}",
    "{{ '%999999999d' is even }}",
    "{{ '%999999999d' is divisibleby(3) }}",
    "{{ path is divisibleby(path) }}",
    "{{ 5 | round(-1000000000) }}",
    "{{ 'aaaaaaaa'" + " | replace('a', 'aaaaaaaa')" * 20 + " }}",
    "{{ '\"'" + " | tojson" * 60 + " }}",
    "{{ " + "(" * 480 + "1" + ")" * 480 + " }}",
    "{{ " + "1 + " * 300 + "1 }}",
    "{{ 'a'" + "[0]" * 320 + " }}",
    "{{ " + "not " * 240 + "1 }}",
    "{{ '" + "9" * 900 + "' | int * '" + "9" * 90 + "' | int }}",
]


@pytest.mark.parametrize("template", RUNAWAYS, ids=lambda template: template[:40])
def test_an_expression_cannot_run_away(template: str) -> None:
    """Whatever it multiplies, pads, nests or chains ends at once and in little memory."""
    before = time.monotonic()
    with pytest.raises(WordError):
        words.render((template,), VALUES)
    assert time.monotonic() - before < 1


def test_a_word_longer_than_linux_takes_is_refused() -> None:
    """131,071 bytes pass, one more does not, also when many pieces add up."""
    longest = "x" * words.LONGEST_WORD_BYTES
    assert words.render(("{{ v }}",), {"v": longest}) == (longest,)
    for template, value in (("{{ v }}y", longest), ("{{ v }}" * 50, longest), ("{{ v }}", "ü" * 70_000)):
        with pytest.raises(WordError, match="longer"):
            words.render((template,), {"v": value})


def test_names_are_the_variables_that_the_words_use() -> None:
    """Every variable of every expression is named, `outputs` for `outputs.KEY`, even where it stands in a branch."""
    templates = ("a", "{{ play_uuid }}/{{ outputs.sha }}", "{{ x if y else z | default(w) }}", "{{ loop }}")
    assert words.names(templates) == {"play_uuid", "outputs", "x", "y", "z", "w", "loop"}


@pytest.mark.parametrize(
    "template",
    [
        "{{ }}",
        "{{ a b }}",
        "{{ a | nosuch }}",
        "{{ a is nosuch }}",
        "{{- a }}",
        "{{ a -}}",
        "{{ a + }}",
        "{{ a) }}",
        "{{ (a }} {{ b) }}",
    ],
)
def test_an_expression_with_a_fault_is_refused_before_any_value_is_known(template: str) -> None:
    """Names and syntax are looked at when the configuration is read."""
    with pytest.raises(WordError):
        words.names((template,))


@pytest.mark.parametrize(
    "template",
    [
        "{{ 1e999 }}",
        "{{ -1e999 }}",
        "{{ (1e999) | int }}",
        "{{ 1e999 is odd }}",
        "{{ [1e999][0] }}",
        "{{ 1e308 * 10 }}",
        "{{ 1 // 0 }}",
        "{{ 1 is divisibleby(0) }}",
        "{{ 'a' is odd }}",
        "{{ (1, 2) }}",
        "{{ 'a'.nosuch() }}",
        "{{ '%s' % 1 }}",
    ],
)
def test_what_no_value_can_mend_is_refused_before_any_value_is_known(template: str) -> None:
    """An expression that names no variable has its value already: who checks a configuration is told."""
    with pytest.raises(WordError):
        words.names((template,))
    with pytest.raises(WordError):
        words.render((template,), {})


NUMBERS = st.sampled_from(
    ["0", "1", "-1", "1e999", "1e308", "0.5", "9" * 400, "'9e999'", "revision", "attempt", "none"]
)
OPERATIONS = st.sampled_from(
    [" + ", " - ", " * ", " ** ", " / ", " // ", " % ", " ~ ", " < ", " in ", " and ", " if 1 else "]
)
CHANGES = st.sampled_from(
    [
        "",
        " | int",
        " | float",
        " | abs",
        " | string",
        " | tojson",
        " | length",
        " is odd",
        " is divisibleby(2)",
        "[0]",
        ".upper()",
    ]
)


@given(
    st.lists(st.tuples(NUMBERS, CHANGES, OPERATIONS), min_size=1, max_size=6),
    st.sampled_from(["", "1e999", "%9d", "nan"]),
)
def test_every_expression_that_is_passed_has_a_value_or_says_why(parts: list[tuple[str, str, str]], value: str) -> None:
    """Whatever it calculates with: no other error than ours leaves it."""
    text = "".join(f"({number}){change}{operation}" for number, change, operation in parts) + "1"
    with contextlib.suppress(WordError):
        words.names(("{{ " + text + " }}",))
    with contextlib.suppress(WordError):
        words.render(("{{ " + text + " }}",), {"revision": value, "attempt": 3})


@pytest.mark.parametrize(
    ("template", "value"),
    [("{{ v }}", "-\x1b[2J"), ("{{ v }}", "-\u2028"), ("{{ v.\x1b }}", "x"), ("{{ v[v] }}", "\x85\u202e")],
)
def test_what_is_wrong_is_told_in_one_visible_line(template: str, value: str) -> None:
    """A value that a stranger chose moves no cursor and breaks no line."""
    with pytest.raises(WordError) as refused:
        words.render((template,), {"v": value})
    assert str(refused.value).isprintable()
    assert len(str(refused.value)) < 1000


def test_the_tests_of_jinja2_that_are_kept_do_what_they_did() -> None:
    """Of numbers, of texts, of what is defined."""
    for template, expected in (
        ("{{ attempt is odd }}", "True"),
        ("{{ attempt is even }}", "False"),
        ("{{ attempt is divisibleby(3) }}", "True"),
        ("{{ 'yes' if revision is defined else 'no' }}", "yes"),
        ("{{ 'yes' if revision is string and attempt is number else 'no' }}", "yes"),
        ("{{ 'yes' if attempt is ge(3) else 'no' }}", "yes"),
    ):
        assert words.render((template,), {"attempt": 3, "revision": "1"}) == (expected,), template


def test_variables_are_known_per_command() -> None:
    """A check has six, a run's commands four more, a hook seven more."""
    of_runs = words.RUN_VARIABLES - words.CHECK_VARIABLES
    of_hooks = words.HOOK_VARIABLES - words.RUN_VARIABLES
    assert sorted(words.CHECK_VARIABLES) == [
        "attempt",
        "hostname",
        "previous_revision",
        "state_dir",
        "trigger",
        "watch",
    ]
    assert sorted(of_runs) == ["download_path", "outputs", "play_uuid", "revision"]
    assert sorted(of_hooks) == [
        *("duration", "exit_code", "failed_step", "failing_since", "failures", "outcome", "output_path"),
    ]


def test_the_same_values_come_as_environment() -> None:
    """`play_uuid` is JETWATCH_PLAY_UUID, `outputs.sha` is JETWATCH_OUTPUTS_SHA; None is empty, NUL refused."""
    values = {"play_uuid": "1-2", "exit_code": None, "attempt": 3, "outputs": {"sha": "abc"}}
    assert words.as_environment(values) == {
        "JETWATCH_PLAY_UUID": "1-2",
        "JETWATCH_EXIT_CODE": "",
        "JETWATCH_ATTEMPT": "3",
        "JETWATCH_OUTPUTS_SHA": "abc",
    }
    with pytest.raises(WordError, match="JETWATCH_REVISION"):
        words.as_environment({"revision": "a\0"})


@pytest.mark.parametrize(
    ("text", "sign"),
    [
        ("a && b", "&&"),
        ("a | b", "|"),
        ("a > /tmp/x", ">"),
        ("ls *", "*"),
        ("a; b", ";"),
        ("a $(b)", "$("),
        ("a $HOME", "$HOME"),
        ('a "$HOME"', "$HOME"),
        ("a `b`", "`"),
        ("a 'b && c'", None),
        ("a '$HOME'", None),
        ('a "b | c"', None),
        ("a \\* b", None),
        ("a {{ b | lower }}", None),
        ('a "it\'s" | b', "|"),
        ("a b=c,d", None),
    ],
)
def test_a_command_that_looks_like_shell_is_told_from_one_that_quotes(text: str, sign: str | None) -> None:
    """Only what a shell would act on counts."""
    assert words.shell_sign(text) == sign


@pytest.mark.parametrize("value", ["a b", "", None, 7, 1.5, True, "é\n{{ 1 }}"])
def test_a_variable_alone_means_what_it_means_in_an_expression(value: object) -> None:
    """Most expressions are one variable and are read without jinja2, which says the same of them."""
    variables = {"revision": value}
    assert words.render(("x{{ revision }}",), variables) == words.render(("x{{ (revision) }}",), variables)
    assert words.names(("{{revision}}",)) == words.names(("{{ (revision) }}",))


def test_jinja2_is_imported_only_for_expressions() -> None:
    """A configuration whose templates are variables pays nothing for the template library."""
    program = (
        "import sys; from jetwatch import words; template = words.split('a {{ revision }}');"
        "words.render(template, {'revision': 'b'}); words.names(template);"
        "sys.exit('jinja2' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


HOSTILE = st.text(st.characters(codec="utf-8"), max_size=40) | st.sampled_from(
    ["a b", "'", '"', "\\", "$(id)", "`id`", "; rm", "{{ 1 }}", "{% x %}", "}}", "\n", "--", "-", "*", "#", "\t", "é"]
)


@pytest.mark.parametrize("name", ["v", "download_path"])
@given(value=HOSTILE)
def test_a_value_never_changes_the_number_of_words(name: str, value: str) -> None:
    """Whatever the value, argv has the words of the template, all others as they were, this one byte for byte."""
    template = words.split("run --opt={{ v }} 'a b' x{{ v }}y {{ v }} end".replace("v", name))
    try:
        argv = words.render(template, {name: value})
    except WordError:
        assert "\0" in value or value.startswith("-")
    else:
        assert argv == ("run", f"--opt={value}", "a b", f"x{value}y", value, "end")


@given(
    parts=st.lists(st.sampled_from(["a", " ", "'", '"', "\\", "{{", "}}", "{", "}", "{{ v }}", "#", "\n"]), max_size=12)
)
def test_every_text_either_splits_or_says_why(parts: list[str]) -> None:
    """Splitting ends in words that render, or in a WordError, never in anything else."""
    with contextlib.suppress(WordError):
        template = words.split("".join(parts))
        assert len(words.render(template, {"v": "x", "a": "y"})) == len(template)


def test_argv_arrives_byte_exact_at_a_real_process() -> None:
    """What was rendered is what the kernel hands over."""
    value = "a b\n'\"$(id)`id`*\\ é \udcff"
    argv = words.render(
        ("{{ program }}", "-c", "import os,sys; os.write(1, os.fsencode(sys.argv[1]))", "{{ v }}"),
        {"program": sys.executable, "v": value},
    )
    arrived = subprocess.run(argv, check=True, capture_output=True).stdout
    assert arrived == value.encode("utf-8", "surrogateescape")
