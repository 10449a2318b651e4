"""How an agent asks a process of its own to look at a content, and what that process may answer.

The question goes into the process by its environment, credentials apart; the answer comes back as outputs.
The process may belong to an account that is not trusted, so its answer is a stranger's: it is read by `answered` alone,
which returns a Look, or raises a ContentError that says what was wrong.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from jetwatch.content_records import SECRETS_VARIABLE, Content, Look
from jetwatch.errors import ContentStalled, ContentWait

ASKED_VARIABLE = "JETWATCH_LOOK"
LONGEST_WAIT_S = 24 * 3600
SHOWN_LETTERS = 400

_WAIT = re.compile(r"[0-9]{1,6}")


class _Form(Struct, frozen=True):
    """What one output has to look like, and what it is where it was not written."""

    pattern: re.Pattern[str]
    what: str
    default: str


_FORMS = {
    "revision": _Form(re.compile(r"[\x21-\x7e]{1,256}"), "1 to 256 ASCII characters without spaces", ""),
    "settled": _Form(re.compile("true|false"), "`true` or `false`", "true"),
    "requests": _Form(re.compile("[0-9]{1,7}"), "a number of at most 7 digits", "0"),
    "validator": _Form(re.compile(r"[\x20-\x7e]{0,320}"), "at most 320 ASCII characters", ""),
}


class Asked(Struct, frozen=True):
    """One question: where to look, what the last look saw, and how long it may take. No secrets are in it."""

    content: Content
    known: Look | None
    deadline_s: float


def question(content: Content, known: Look | None, deadline_s: float) -> dict[str, str]:
    """The question as variables. Credentials are not among them: they go with the secrets of the fetch."""
    asked = Asked(replace(content, secrets={}), known, deadline_s)
    return {ASKED_VARIABLE: msgspec.json.encode(asked).decode()}


def asked(environ: Mapping[str, str]) -> Asked:
    """The question, with the credentials. Raises ContentStalled."""
    try:
        found = msgspec.json.decode(environ[ASKED_VARIABLE], type=Asked)
        secrets = msgspec.json.decode(environ.get(SECRETS_VARIABLE, "{}"), type=dict[str, str])
    except (KeyError, msgspec.MsgspecError) as error:
        raise ContentStalled(f"{ASKED_VARIABLE}: expected what an agent asks: {error}") from None
    return replace(found, content=replace(found.content, secrets=secrets))


def answer(look: Look) -> dict[str, str]:
    """A look as outputs."""
    return {
        "revision": look.revision,
        "settled": json.dumps(look.settled),
        "requests": str(look.requests),
        "validator": look.validator,
    }


def answered(outputs: Mapping[str, str], place: str) -> Look:
    """The look that these outputs tell. Raises ContentStalled, and no other error, for whatever else stands there.

    `place` names the content for people.
    """
    texts = {name: outputs.get(name, form.default) for name, form in _FORMS.items()}
    for name, form in _FORMS.items():
        if not form.pattern.fullmatch(texts[name]):
            raise ContentStalled(
                f"{place}: expected `{name}` as {form.what} in what the look wrote, found "
                f"{shown(repr(texts[name][:60]))}: does another process of the watch's user write there?"
            )
    return Look(
        texts["revision"],
        settled=texts["settled"] == "true",
        validator=texts["validator"],
        requests=int(texts["requests"]),
    )


def wait_of(outputs: Mapping[str, str], sentence: str) -> ContentWait | None:
    """That the server says when to come back, where the outputs of a look that failed tell it."""
    text = outputs.get("retry_after", "")
    return ContentWait(sentence, min(float(text), LONGEST_WAIT_S)) if _WAIT.fullmatch(text) else None


def shown(text: str) -> str:
    """Text of a stranger within a sentence: one line, no control characters, not long."""
    line = " ".join(text.split())
    plain = "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in line[: 4 * SHOWN_LETTERS])
    return plain if len(plain) <= SHOWN_LETTERS else f"{plain[:SHOWN_LETTERS]}..."
