"""What a process that looked may answer: a look, or a sentence that says what was wrong. It may be a stranger."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jetwatch.content import asking
from jetwatch.content_records import SECRETS_VARIABLE, Content, ContentKind, Limits, Look
from jetwatch.errors import ContentStalled

PLACE = "s3://bucket/site/"
GOOD = {"revision": "abc", "settled": "false", "requests": "3", "validator": 'etag W/"abc"'}


def test_a_look_comes_back_as_it_was_told() -> None:
    """Whatever of it matters for the next look."""
    look = Look("abc", settled=False, validator='etag W/"abc"', requests=3)
    assert asking.answer(look) == GOOD
    assert asking.answered(GOOD, PLACE) == look


def test_only_the_revision_must_be_there() -> None:
    """The rest has a meaning where nothing stands."""
    assert asking.answered({"revision": "abc"}, PLACE) == Look("abc", settled=True, validator="", requests=0)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("revision", ""),
        ("revision", "a b"),
        ("revision", "\x1b[2J"),
        ("revision", "x\u2028y"),
        ("revision", "é"),
        ("revision", "x" * 257),
        ("settled", "{}"),
        ("settled", "[" * 3000),
        ("settled", "True"),
        ("requests", "x"),
        ("requests", "-1"),
        ("requests", "9" * 5000),
        ("requests", "99999999999999999999"),
        ("requests", "\u0663"),
        ("requests", "1\n"),
        ("validator", "\x00"),
        ("validator", "x" * 321),
    ],
)
def test_what_is_no_answer_is_named(name: str, text: str) -> None:
    """By its key, with what was expected, and without anything that moves a cursor."""
    with pytest.raises(ContentStalled, match=f"{PLACE}: expected `{name}` as ") as caught:
        asking.answered(GOOD | {name: text}, PLACE)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 400


@given(st.dictionaries(st.sampled_from([*GOOD, "more"]), st.text()))
def test_no_answer_raises_anything_else(outputs: dict[str, str]) -> None:
    """A look whose every field is what its type says, or the one error."""
    said, look = "", None
    try:
        look = asking.answered(outputs, PLACE)
    except ContentStalled as error:
        said = str(error)
    assert said.isprintable()
    if look is not None:
        assert 1 <= len(look.revision) <= 256
        assert look.revision.isascii()
        assert look.revision.isprintable()
        assert 0 <= look.requests < 10**7
        assert isinstance(look.settled, bool)


@pytest.mark.parametrize(("text", "after_s"), [("0", 0), ("90", 90), ("999999", 86400)])
def test_a_server_that_says_when_to_come_back_is_heard(text: str, after_s: float) -> None:
    """A day at most."""
    wait = asking.wait_of({"retry_after": text}, "busy")
    assert wait is not None
    assert wait.after_s == after_s


@pytest.mark.parametrize("text", ["", "x", "-1", "1e9", "9" * 400, "nan"])
def test_a_wait_that_is_none_is_left_out(text: str) -> None:
    """Then it is a failure like others."""
    assert asking.wait_of({"retry_after": text}, "busy") is None


def test_a_question_arrives_whole_and_holds_no_credential() -> None:
    """Options, limits and the last look go in one variable, credentials in another."""
    content = Content(
        "s3://b/p/",
        ContentKind.BUCKET,
        marker="RELEASE",
        limits=Limits(entries=5),
        secrets={"secret_access_key": "shh"},
    )
    known = Look("abc", validator="abc")
    variables = asking.question(content, known, 9.0)
    assert "shh" not in str(variables)
    asked = asking.asked({**variables, SECRETS_VARIABLE: '{"secret_access_key": "shh"}'})
    assert (asked.content, asked.known, asked.deadline_s) == (content, known, 9.0)


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"content": 1}', "[" * 5000])
def test_a_question_that_is_none_is_refused(text: str) -> None:
    """Somebody set the variable by hand."""
    with pytest.raises(ContentStalled, match="JETWATCH_LOOK"):
        asking.asked({"JETWATCH_LOOK": text})


def test_a_long_text_of_a_stranger_is_one_short_line() -> None:
    """Line ends, escapes and bidi marks become visible; letters stay."""
    assert asking.shown("é\x1b[2J\r\n\u202ex") == "é\\x1b[2J \\u202ex"
    assert len(asking.shown("x" * 100_000)) < 500
